package main

// row is a line of the table.
type row struct {
	name      string   // also the peers' name of it
	label     string   // in the table
	args      []string // of trainer bench
	peers     bool     // the peers' program has it
	generates bool
}

// rows are in the order of the table. Rows of 64 to 2048 tokens are packed unless the row says that documents are single.
var rows = []row{
	{"qlora 8b 2x4096", "QLoRA 8B shape, NF4 double quant, r 16 all linears, packed 2×4096", []string{"--shape", "llama-3.1-8b"}, true, false},
	{"qlora 8b 2x4096 single", "the same, rows of one document", []string{"--shape", "llama-3.1-8b", "--docs", "single"}, false, false},
	{"qlora 8b 1x4096", "the same, 1×4096", []string{"--shape", "llama-3.1-8b", "--batch", "1", "--docs", "single"}, true, false},
	{"qlora 8b 2x2048 checkpointing", "the same, 2×2048 with checkpointing", []string{"--shape", "llama-3.1-8b", "--seq", "2048", "--checkpointing", "on"}, true, false},
	{"qlora 8b 2x2048 offload", "the same, 2×2048 with checkpointing, inputs of blocks in host memory", []string{"--shape", "llama-3.1-8b", "--seq", "2048", "--checkpointing", "on", "--offload", "inputs"}, false, false},
	{"qlora 8b 4x210", "the same, short rows 4×210", []string{"--shape", "llama-3.1-8b", "--batch", "4", "--seq", "210", "--docs", "single"}, true, false},
	{"qlora 1b 2x4096", "1B shape 2×4096", []string{"--shape", "llama-3.2-1b"}, true, false},
	{"lora bf16 8b 1x4096", "LoRA bf16, 8B 1×4096", []string{"--shape", "llama-3.1-8b", "--mode", "lora", "--batch", "1", "--docs", "single"}, true, false},
	{"generate 8b nf4", "generate, 8B NF4, batch 1", []string{"--shape", "llama-3.1-8b", "--batch", "1", "--seq", "256", "--docs", "single", "--generate", "64"}, true, true},
	{"full gpt2-124m", "full fine-tune in bf16, GPT-2 124M shape, 16×1024", []string{"--shape", "gpt2-124m", "--mode", "full", "--optimizer", "adamw", "--batch", "16", "--seq", "1024"}, false, false},
	{"full gpt2-1.5b", "full fine-tune in bf16, GPT-2 1.5B shape, 8×1024", []string{"--shape", "gpt2-1.5b", "--mode", "full", "--batch", "8", "--seq", "1024"}, false, false},
}
