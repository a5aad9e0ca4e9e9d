"""Trains and generates with transformers, PEFT, bitsandbytes, Liger and unsloth on the shapes of `trainer bench`, one JSON line a row.

    python cuda_train.py [--rows NAME,...] [--peers hf,liger,unsloth] [--steps 8] [--site DIR] [--list]

Each row of each peer runs in a process of its own. A line is {"row", "peer", "tokens_per_second", "seconds_per_step", "memory_bytes", ...},
{"row", "peer", "ms_per_token", ...} of generation, or {"row", "peer", "error"}; a library that is not installed is such an error. Weights are random
and made on the device, tokens too; a row of tokens is one document; labels are the tokens; a step is forward, backward, clipping at norm 1 and
the optimizer. Seconds are the median of the steps after the first three. memory_bytes is torch's max_memory_allocated over all steps, the model
included; what the process takes beside it, CUDA's context above all, is beside_bytes. --site names a folder of packages that carry.py made; those
of the machine come first.

The settings are the fastest that the libraries document for one GPU: everything in bfloat16, adapters too, no autocast, attention by
scaled_dot_product_attention, NF4 with double quantization, LoRA r 16 alpha 32 on all seven projections, AdamW in 8 bits. unsloth sets its
own (float32 adapters under autocast, its checkpointing).
"""
import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

warnings.filterwarnings("ignore")

SHAPES = {
    "8b": dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8),
    "1b": dict(vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
               head_dim=64, tie_word_embeddings=True),
    "tiny": dict(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2),
}

# name: shape, 4 bits or not, rows, tokens a row, checkpointing. The last two are for trying this program without a GPU.
ROWS = {
    "qlora 8b 2x4096": ("8b", True, 2, 4096, True),
    "qlora 8b 1x4096": ("8b", True, 1, 4096, False),
    "qlora 8b 2x2048 checkpointing": ("8b", True, 2, 2048, True),
    "qlora 8b 4x210": ("8b", True, 4, 210, False),
    "qlora 1b 2x4096": ("1b", True, 2, 4096, True),
    "lora bf16 8b 1x4096": ("8b", False, 1, 4096, False),
    "generate 8b nf4": ("8b", True, 1, 128, None),
    "qlora tiny 2x16": ("tiny", True, 2, 16, True),
    "generate tiny": ("tiny", True, 1, 8, None),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GENERATED = 64  # tokens
WARM = 3  # steps before the clock counts


def config(shape, length):
    from transformers import LlamaConfig

    return LlamaConfig(**SHAPES[shape], max_position_embeddings=max(length, 8192), rms_norm_eps=1e-5, attn_implementation="sdpa",
                       bos_token_id=1, eos_token_id=2, pad_token_id=0)


def build(args, shape, four, length):
    """A Llama with random weights in bfloat16 on the device, its projections in NF4 if four."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(1)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(args.device):
        model = LlamaForCausalLM(config(shape, length))
    if four:
        for layer in model.model.layers:
            for name, module in list(layer.named_modules()):
                if isinstance(module, torch.nn.Linear):
                    owner, _, leaf = name.rpartition(".")
                    setattr(layer.get_submodule(owner), leaf, quantized(module, args.device))
        model.is_loaded_in_4bit = True  # PEFT asks for it
    return model


def quantized(linear, device):
    import bitsandbytes as bnb
    import torch

    out = bnb.nn.Linear4bit(linear.in_features, linear.out_features, bias=False, compute_dtype=torch.bfloat16, compress_statistics=True, quant_type="nf4",
                            device="meta")
    out.weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=out).to(device)
    linear.weight = None
    return out


def adapted(model, checkpointing):
    """The model with LoRA adapters in bfloat16, alone trained."""
    import torch
    from peft import LoraConfig, get_peft_model

    for p in model.parameters():
        p.requires_grad_(False)
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"),
                           autocast_adapter_dtype=False)
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data.to(torch.bfloat16)
    return model


def hf(args, shape, four, rows, length, checkpointing):
    model = build(args, shape, four, length)
    if checkpointing is None:
        return generate(args, model, length)
    return train(args, adapted(model, checkpointing), shape, rows, length)


def liger(args, shape, four, rows, length, checkpointing):
    from liger_kernel.transformers import apply_liger_kernel_to_llama

    apply_liger_kernel_to_llama(rope=True, rms_norm=True, swiglu=True, fused_linear_cross_entropy=True)
    return hf(args, shape, four, rows, length, checkpointing)


def unsloth(args, shape, four, rows, length, checkpointing):
    """unsloth loads from a folder only: random weights are written to one, a layer at a time."""
    from unsloth import FastLanguageModel

    if checkpointing is None:
        raise ValueError("generation is measured with transformers only")
    with tempfile.TemporaryDirectory() as folder:
        write(args, folder, shape, length)
        model, _ = FastLanguageModel.from_pretrained(folder, max_seq_length=length, dtype=None, load_in_4bit=four, local_files_only=True)
    model = FastLanguageModel.get_peft_model(model, r=16, lora_alpha=32, lora_dropout=0, bias="none", target_modules=TARGETS,
                                             use_gradient_checkpointing="unsloth" if checkpointing else False)
    FastLanguageModel.for_training(model, use_gradient_checkpointing="unsloth" if checkpointing else False)
    return train(args, model, shape, rows, length)


def write(args, folder, shape, length):
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    c = config(shape, length)
    c.architectures, c.dtype = ["LlamaForCausalLM"], "bfloat16"
    c.save_pretrained(folder)
    with torch.device("meta"):
        wanted = {k: v.shape for k, v in LlamaForCausalLM(c).state_dict().items()}
    if c.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
    shards = {}
    for key, size in wanted.items():
        part = key.split(".")[2] if ".layers." in key else "rest"
        std = torch.ones(size, dtype=torch.bfloat16) if len(size) == 1 else (torch.randn(size, device=args.device) * 0.02).to(torch.bfloat16).cpu()
        shards.setdefault(part, {})[key] = std
    index = {}
    for part, tensors in shards.items():
        name = f"model-{part}.safetensors"
        save_file(tensors, os.path.join(folder, name), metadata={"format": "pt"})
        index.update({key: name for key in tensors})
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {}, "weight_map": index}, f)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"t{i}": i for i in range(3, c.vocab_size)}}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", bos_token="<s>",
                            eos_token="</s>").save_pretrained(folder)


def sync(args):
    import torch

    if args.device == "cuda":
        torch.cuda.synchronize()


def fresh(args):
    """Memory is counted from here, when what building left is given back."""
    import torch

    gc.collect()
    if args.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def memory(args):
    import torch

    if args.device != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"memory_bytes": torch.cuda.max_memory_allocated(), "beside_bytes": total - free - torch.cuda.memory_reserved(),
            "device": torch.cuda.get_device_name()}


def train(args, model, shape, rows, length):
    import bitsandbytes as bnb
    import torch

    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = bnb.optim.AdamW8bit(weights, lr=1e-4)
    ids = torch.randint(3, SHAPES[shape]["vocab_size"], (rows, length), device=args.device)
    model.train()
    fresh(args)
    took, loss = [], None
    for _ in range(WARM + args.steps):
        sync(args)
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        sync(args)
        took.append(time.perf_counter() - start)
    seconds = statistics.median(took[WARM:])
    return {"tokens_per_second": round(rows * length / seconds, 1), "seconds_per_step": round(seconds, 5), "steps": args.steps,
            "loss": float(loss.detach()), **memory(args)}


def generate(args, model, length):
    import torch

    model.eval()
    prompt = torch.randint(3, model.config.vocab_size, (1, length), device=args.device)
    fresh(args)

    def run(new):
        sync(args)
        start = time.perf_counter()
        model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new, min_new_tokens=new, do_sample=False)
        sync(args)
        return time.perf_counter() - start

    run(GENERATED)
    first = statistics.median(run(1) for _ in range(3))
    whole = statistics.median(run(GENERATED) for _ in range(3))
    return {"ms_per_token": round((whole - first) / (GENERATED - 1) * 1e3, 3), "first_ms": round(first * 1e3, 3), **memory(args)}


PEERS = {"hf": hf, "liger": liger, "unsloth": unsloth}


def versions():
    import importlib.metadata as meta

    out = {}
    for name in ("torch", "transformers", "peft", "bitsandbytes", "liger_kernel", "unsloth"):
        try:
            out[name] = meta.version(name)
        except meta.PackageNotFoundError:
            pass
    return out


def child(args):
    try:
        return {**PEERS[args.peers](args, *ROWS[args.rows]), "versions": versions()}
    except ImportError as e:
        return {"error": f"not installed: {e}"}
    except Exception as e:  # a row that fails is a result
        return {"error": f"{type(e).__name__}: {e}"[:500]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rows", default=",".join(r for r in ROWS if "tiny" not in r))
    p.add_argument("--peers", default="hf,unsloth")
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--device", default="cuda")
    p.add_argument("--limit", type=float, default=240, help="seconds a row may take")
    p.add_argument("--site", default="", help="folder of packages to use beside the machine's own")
    p.add_argument("--list", action="store_true")
    p.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.list:
        return print("\n".join(ROWS))
    if args.site:
        if not os.path.isdir(args.site):
            p.error(f"--site: {args.site} is no folder; unpack what carry.py made there")
        sys.path.append(os.path.abspath(args.site))
    if args.child:
        result = child(args)
        return print("RESULT " + json.dumps(result))
    for row in args.rows.split(","):
        for peer in args.peers.split(","):
            print(json.dumps({"row": row, "peer": peer, **parent(args, row, peer)}), flush=True)


def parent(args, row, peer):
    if row not in ROWS or peer not in PEERS:
        return {"error": f"unknown; rows are {', '.join(ROWS)}; peers are {', '.join(PEERS)}"}
    command = [sys.executable, os.path.abspath(__file__), "--child", "--rows", row, "--peers", peer, "--steps", str(args.steps), "--device", args.device,
               "--site", args.site]
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=args.limit)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {args.limit:.0f} seconds"}
    for line in out.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line[len("RESULT "):])
    return {"error": f"exit {out.returncode}: {out.stderr[-300:]}"}


if __name__ == "__main__":
    main()
