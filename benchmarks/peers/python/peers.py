"""Times PyTorch and bitsandbytes on the work of benchmarks/kernels, one JSON line a row.

    python peers.py --threads 2 [--rows name,name] [--list]

A line is {"row": name, "peer": who, "seconds": best seconds of one call}, or {"row": name, "error": why}. Rows whose library is not
installed say so. Work that memory bounds goes in turn over operands of 512 MB and more, as in benchmarks/kernels.
"""
import argparse
import copy
import json
import sys
import time
import warnings

warnings.filterwarnings("ignore")

ROTATE = 512 << 20  # bytes that rotated operands have together, at least


def best(call, seconds=0.4, rounds=5):
    """The least mean seconds of a call over rounds that share the given time."""
    call()
    call()
    least = float("inf")
    for _ in range(rounds):
        calls, start = 0, time.perf_counter()
        while True:
            call()
            calls += 1
            took = time.perf_counter() - start
            if took >= seconds / rounds:
                break
        least = min(least, took / calls)
    return least


def rotating(make, each):
    """Calls the functions of as many made cases as have ROTATE bytes, in turn."""
    cases = [make() for _ in range(max(1, -(-ROTATE // each)))]
    turn = [0]

    def call():
        turn[0] = (turn[0] + 1) % len(cases)
        return cases[turn[0]]()

    return call


ROWS = {}


def row(name):
    def add(f):
        ROWS[name] = f
        return f

    return add


def gemm(name, m, n, k):
    def floats(dtype):
        import torch

        a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
        return "PyTorch", best(lambda: a @ b)

    def f32():
        import torch

        return floats(torch.float32)

    def bf16():
        import torch

        return floats(torch.bfloat16)

    def int8():
        import torch

        a = torch.randint(-127, 128, (m, k), dtype=torch.int8)
        b = torch.randint(-127, 128, (k, n), dtype=torch.int8)
        return "PyTorch", best(lambda: torch._int_mm(a, b))

    ROWS["gemm_f32_" + name], ROWS["gemm_bf16_" + name], ROWS["gemm_int8_" + name] = f32, bf16, int8


for _name, _shape in {"512": (512, 512, 512), "1024": (1024, 1024, 1024), "512x4096x4096": (512, 4096, 4096)}.items():
    gemm(_name, *_shape)


def linear4bit(m, dtype, count=1):
    """The faster of training's path (dequantize, then a dense product) and the packed kernel of eval()."""
    import bitsandbytes as bnb
    import torch

    dtype = getattr(torch, dtype)

    first = bnb.nn.Linear4bit(4096, 4096, bias=False, compute_dtype=dtype, quant_type="nf4", compress_statistics=True)
    first.weight = bnb.nn.Params4bit(torch.randn(4096, 4096), requires_grad=False, quant_type="nf4", compress_statistics=True)
    first = first.to("cpu")
    x = torch.randn(m, 4096).to(dtype)
    layers = [first] + [copy.deepcopy(first) for _ in range(count - 1)]
    turn = [0]

    def call():
        turn[0] = (turn[0] + 1) % len(layers)
        return layers[turn[0]](x)

    with torch.no_grad():
        train = best(call)
        for lin in layers:
            lin.eval()
            lin(x)  # repacks the weight
        packed = best(call)
    return "bitsandbytes, " + ("dequantize" if train < packed else "packed"), min(train, packed)


for _m in (56, 256, 512):
    ROWS[f"nf4_f32_m{_m}"] = lambda m=_m: linear4bit(m, "float32")
ROWS["nf4_bf16_m512"] = lambda: linear4bit(512, "bfloat16")
ROWS["nf4_gemv_f32"] = lambda: linear4bit(1, "float32", 62)
ROWS["nf4_gemv_bf16"] = lambda: linear4bit(1, "bfloat16", 62)


@row("nf4_dequantize_f32")
def nf4_dequantize(dtype="float32"):
    import bitsandbytes.functional as F
    import torch

    w = torch.randn(4096, 4096).to(getattr(torch, dtype))
    codes, state = F.quantize_4bit(w, blocksize=64, quant_type="nf4", compress_statistics=True)

    def make():
        mine = codes.clone()
        return lambda: F.dequantize_4bit(mine, state)

    return "bitsandbytes", best(rotating(make, codes.numel()), 1.0)


ROWS["nf4_dequantize_bf16"] = lambda: nf4_dequantize("bfloat16")


@row("int8_dequantize_f32")
def int8_dequantize():
    import bitsandbytes.functional as F
    import torch

    codes, state = F.quantize_blockwise(torch.randn(4096, 4096))

    def make():
        mine = codes.clone()
        return lambda: F.dequantize_blockwise(mine, state)

    return "bitsandbytes", best(rotating(make, codes.numel()), 1.0)


@row("nf4_quantize_f32")
def nf4_quantize():
    import bitsandbytes.functional as F
    import torch

    w = torch.randn(4096, 4096)
    return "bitsandbytes", best(lambda: F.quantize_4bit(w, blocksize=64, quant_type="nf4"), 1.5)


@row("int8_quantize_f32")
def int8_quantize():
    import bitsandbytes.functional as F
    import torch

    w = torch.randn(4096, 4096)
    return "bitsandbytes", best(lambda: F.quantize_blockwise(w), 1.0)


def optimizer(make, sets):
    import torch

    steps = []
    for _ in range(sets):
        p = torch.randn(10_000_000, requires_grad=True)
        p.grad = torch.randn(10_000_000) * 1e-2
        steps.append(make([p]).step)
    turn = [0]

    def call():
        turn[0] = (turn[0] + 1) % len(steps)
        steps[turn[0]]()

    for _ in steps:
        call()
    return best(call, 2.0)


@row("adamw8bit")
def adamw8bit():
    import bitsandbytes as bnb

    return "bitsandbytes", optimizer(lambda p: bnb.optim.AdamW8bit(p, lr=1e-3), 4)


@row("adamw32bit")
def adamw32bit():
    import torch

    return "PyTorch fused", optimizer(lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True), 4)


@row("mlp")
def mlp():
    import torch
    from torch import nn

    net = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))
    opt = torch.optim.SGD(net.parameters(), lr=0.1, fused=True)
    x, y = torch.rand(64, 784), torch.randint(0, 10, (64,))

    def call():
        nn.functional.cross_entropy(net(x), y).backward()
        opt.step()
        opt.zero_grad()

    return "PyTorch", best(call, 1.0)


def tiny_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    cfg = LlamaConfig(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4, intermediate_size=688,
                      vocab_size=512, max_position_embeddings=512, tie_word_embeddings=False)
    return LlamaForCausalLM(cfg)


def llama_step(model, opt, compiled=False):
    import torch

    ids = torch.randint(0, 512, (8, 256))
    model.train()
    run = torch.compile(model) if compiled else model

    def call():
        run(input_ids=ids, labels=ids).loss.backward()
        opt.step()
        opt.zero_grad()

    for _ in range(3):
        call()
    return best(call, 6.0, 4)


def full(compiled):
    import torch

    m = tiny_llama()
    return llama_step(m, torch.optim.AdamW(m.parameters(), fused=True), compiled)


ROWS["llama_full_f32"] = lambda: ("PyTorch eager", full(False))
ROWS["llama_full_f32_compiled"] = lambda: ("PyTorch compiled", full(True))


def adapted(quantized, dtype):
    import torch
    from peft import LoraConfig, get_peft_model

    dtype = getattr(torch, dtype)
    m = tiny_llama().to(dtype)
    if quantized:
        import bitsandbytes as bnb

        for name, mod in list(m.named_modules()):
            if not isinstance(mod, torch.nn.Linear) or name.endswith("lm_head"):
                continue
            lin = bnb.nn.Linear4bit(mod.in_features, mod.out_features, bias=False, compute_dtype=dtype, quant_type="nf4", compress_statistics=True)
            lin.weight = bnb.nn.Params4bit(mod.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True)
            parent = m.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], lin.to("cpu"))
    m = get_peft_model(m, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    params = [p for p in m.parameters() if p.requires_grad]
    return llama_step(m, torch.optim.AdamW(params, fused=True))


ROWS["llama_lora_f32"] = lambda: ("PEFT, float32 weights", adapted(False, "float32"))
ROWS["llama_lora_nf4_f32"] = lambda: ("PEFT and bitsandbytes", adapted(True, "float32"))
ROWS["llama_lora_nf4_bf16"] = lambda: ("PEFT and bitsandbytes", adapted(True, "bfloat16"))


def sdpa(backward):
    import torch

    q, k, v = (torch.randn(1, 8, 2048, 64, requires_grad=backward) for _ in range(3))
    g = torch.randn(1, 8, 2048, 64)

    def call():
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        if backward:
            y.backward(g)
            q.grad = k.grad = v.grad = None

    return "PyTorch", best(call, 1.0)


ROWS["attention_forward"] = lambda: sdpa(False)
ROWS["attention_both"] = lambda: sdpa(True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--rows", default="")
    ap.add_argument("--list", action="store_true")
    args = ap.parse_args()
    if args.list:
        print("\n".join(ROWS))
        return
    try:
        import torch

        torch.set_num_threads(args.threads)
        torch.manual_seed(0)
    except ImportError as e:
        sys.exit(f"peers.py: {e}; install torch, transformers, peft and bitsandbytes")
    for name in args.rows.split(",") if args.rows else ROWS:
        if name not in ROWS:
            continue
        try:
            peer, seconds = ROWS[name]()
            line = {"row": name, "peer": peer, "seconds": seconds}
        except Exception as e:  # a missing library or an operation the build lacks: the table says so
            line = {"row": name, "error": f"{type(e).__name__}: {e}"[:200]}
        print(json.dumps(line), flush=True)


def versions():
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "transformers", "peft", "bitsandbytes"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found


if __name__ == "__main__":
    print(json.dumps({"versions": versions()}), flush=True)
    main()
