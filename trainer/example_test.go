package trainer_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	_ "github.com/bitsandbyes/bitsandbyes/device/cpu" // the backend that runs it
	"github.com/bitsandbyes/bitsandbyes/trainer"
	"github.com/bitsandbyes/bitsandbyes/trainer/config"
	"github.com/bitsandbyes/bitsandbyes/trainer/report"
)

// Run is what the commands finetune and pretrain do: this trains a tiny model from its config.json for three steps.
func ExampleRun() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Println(err)
		}
	}()
	for name, text := range map[string]string{
		"config.json": `{"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
			"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
			"rope_theta": 10000, "hidden_act": "silu", "eos_token_id": 0, "tie_word_embeddings": true}`,
		"rows.jsonl": `{"input_ids": [1, 2, 3, 4, 0]}` + "\n" + `{"input_ids": [5, 6, 7, 8, 0]}` + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			fmt.Println(err)
			return
		}
	}
	cfg := config.Default(config.Pretrain)
	cfg.Model, cfg.Out, cfg.Device = filepath.Join(dir, "config.json"), filepath.Join(dir, "run"), "cpu"
	cfg.Data.Path, cfg.Data.SeqLen, cfg.Data.Val = []config.Source{{Path: filepath.Join(dir, "rows.jsonl"), Weight: 1}}, 16, 0
	cfg.Train.Batch, cfg.Train.MicroBatch, cfg.Train.Steps = 1, 1, 3
	s, err := trainer.Run(context.Background(), cfg, trainer.Hooks{OnStep: func(r report.Row) error {
		fmt.Println("step", r.Step)
		return nil
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = os.Stat(filepath.Join(cfg.Out, "metrics.jsonl"))
	fmt.Println(s.Steps, err)
	// Output:
	// step 1
	// step 2
	// step 3
	// 3 <nil>
}
