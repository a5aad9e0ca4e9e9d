"""Fine-tunes SmolLM2-135M-Instruct with transformers, PEFT and bitsandbytes on the rows of docs/results.md.

    python smollm2.py rows  --data instruction-data.json --out DIR
    python smollm2.py model --gguf FILE.gguf --out DIR
    python smollm2.py before --model DIR --rows DIR
    python smollm2.py train --model DIR --rows DIR [--steps N] [--threads 2] [--dtype float32]

rows writes train.jsonl (the first 1,000) and heldout.jsonl (the others) as conversations; model writes the GGUF's weights as a
Hugging Face directory in float32; train runs QLoRA on the CPU and prints one JSON line: seconds from the start of the process to the begin and to the end
of the first step, held-out loss after, tokens a second, peak memory. before prints the held-out loss
of the untrained adapter, in a process of its own: after a forward pass without gradients bitsandbytes' CPU layers no longer train well. Labels are the assistant's text and the token that ends it.
"""
import time

BEGAN = time.time()  # before the imports, which are part of a cold start

import argparse
import json
import math
import os
import resource
import warnings

warnings.filterwarnings("ignore")


def rows(args):
    with open(args.data) as f:
        data = json.load(f)
    os.makedirs(args.out, exist_ok=True)
    for name, part in (("train", data[:1000]), ("heldout", data[1000:])):
        with open(os.path.join(args.out, name + ".jsonl"), "w") as f:
            for r in part:
                ask = r["instruction"] + ("\n\n" + r["input"] if r["input"] else "")
                messages = [{"role": "user", "content": ask}, {"role": "assistant", "content": r["output"]}]
                f.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def model(args):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = os.path.split(os.path.abspath(args.gguf))
    net = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    weights = {k: v for k, v in net.state_dict().items() if k != "lm_head.weight"}  # tied
    net.config.__dict__.pop("quantization_config", None)
    plain = AutoModelForCausalLM.from_config(net.config, dtype=torch.float32)
    plain.load_state_dict(weights, strict=False)
    plain.tie_weights()
    plain.save_pretrained(args.out)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(args.out)


def encode(tokenizer, path):
    out = []
    with open(path) as f:
        for line in f:
            messages = json.loads(line)["messages"]
            whole = tokenizer.apply_chat_template(messages, tokenize=False)
            prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
            assert whole.startswith(prompt)
            first = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            rest = tokenizer(whole[len(prompt) :].rstrip("\n"), add_special_tokens=False)["input_ids"]
            out.append((first + rest, [-100] * len(first) + rest))
    return out


def collate(part, pad):
    import torch

    width = max(len(ids) for ids, _ in part)
    fill = lambda x, v: x + [v] * (width - len(x))
    return {
        "input_ids": torch.tensor([fill(ids, pad) for ids, _ in part]),
        "attention_mask": torch.tensor([fill([1] * len(ids), 0) for ids, _ in part]),
        "labels": torch.tensor([fill(labels, -100) for _, labels in part]),
    }


def loss_sum(net, batch):
    import torch.nn.functional as F

    labels = batch.pop("labels")[:, 1:]
    logits = net(**batch).logits[:, :-1]
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1), ignore_index=-100, reduction="sum")


def counted(part):
    return sum(sum(x != -100 for x in labels[1:]) for _, labels in part)


def heldout(net, part, pad):
    import torch

    net.eval()
    with torch.no_grad():
        total = sum(loss_sum(net, collate(part[i : i + 4], pad)).item() for i in range(0, len(part), 4))
    net.train()
    return total / counted(part)


def load(args):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    dtype = getattr(torch, args.dtype)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    net = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, quantization_config=quantized, device_map="cpu")
    net.config.use_cache = False
    return get_peft_model(net, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")), tokenizer


def train(args):
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    net, tokenizer = load(args)
    data, held = (encode(tokenizer, os.path.join(args.rows, n + ".jsonl")) for n in ("train", "heldout"))
    pad = tokenizer.pad_token_id
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1)).tolist()
    batches = [[data[j] for j in order[i : i + args.batch]] for i in range(0, len(order), args.batch)]
    steps = len(batches) if args.steps == 0 else args.steps
    warm = max(1, round(0.03 * steps))
    params = [p for p in net.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=args.lr, weight_decay=0.0)
    ready = time.time() - BEGAN
    first, losses, tokens, began = None, [], 0, time.time()
    for step in range(steps):
        batch = batches[step % len(batches)]
        n, loss = counted(batch), 0.0
        for i in range(0, len(batch), args.micro):
            part = loss_sum(net, collate(batch[i : i + args.micro], pad)) / n
            part.backward()
            loss += part.item()
        rate = min(1, (step + 1) / warm) if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
        for group in opt.param_groups:
            group["lr"] = args.lr * rate
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        opt.zero_grad()
        losses.append(loss)
        tokens += sum(len(ids) for ids, _ in batch)
        first = first or time.time() - BEGAN
        if args.cold:
            break
    took = time.time() - began
    out = {"ready_seconds": ready, "first_step_seconds": first, "steps": len(losses), "tokens_per_s": tokens / took, "seconds": took, "losses": losses,
           "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "threads": args.threads, "dtype": args.dtype}
    if not args.cold:
        out.update(heldout_after=heldout(net, held, pad))
        if args.out:
            net.save_pretrained(args.out)
    print(json.dumps(out))


def before(args):
    import torch

    torch.set_num_threads(args.threads)
    net, tokenizer = load(args)
    print(json.dumps({"heldout_before": heldout(net, encode(tokenizer, os.path.join(args.rows, "heldout.jsonl")), tokenizer.pad_token_id)}))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["rows", "model", "before", "train"])
    for name in ("data", "gguf", "model", "rows", "out"):
        p.add_argument("--" + name)
    p.add_argument("--steps", type=int, default=0, help="0: one epoch")
    p.add_argument("--micro", type=int, default=4, help="rows of a micro-batch")
    p.add_argument("--batch", type=int, default=16, help="rows of a step")
    p.add_argument("--lr", type=float, default=2e-4)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--dtype", default="float32")
    p.add_argument("--cold", action="store_true", help="stop after the first step, no held-out loss")
    args = p.parse_args()
    {"rows": rows, "model": model, "before": before, "train": train}[args.what](args)


if __name__ == "__main__":
    main()
