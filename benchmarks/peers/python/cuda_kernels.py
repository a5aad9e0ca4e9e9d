"""Times PyTorch and bitsandbytes on the GPU work of benchmarks/cuda, one JSON line a row.

    python cuda_kernels.py > peers.json        # then: benchmarks/cuda -peers peers.json
    python cuda_kernels.py --only "quantize,NF4 GEMV"

A line is {"work", "detail", "peer", "us"} with the median of nine batches timed by CUDA events, or {..., "error"}. Operands rotate over 160 MB
and more. Calls are recorded as a CUDA graph where the library allows it ("graph": true), as in benchmarks/cuda; else they are issued one
by one. bitsandbytes on a machine without a network: repackage.py makes a small wheel.
"""
import argparse
import gc
import json
import statistics
import sys
import warnings

import torch

warnings.filterwarnings("ignore")

ROTATE = 160 << 20  # bytes that rotated operands have together, at least
BATCHES = 9
BATCH_US = 3000.0
ROWS = []


def row(work, detail, peer, graph=True):
    """Registers a function that returns (calls, bytes of the operands of one call)."""

    def add(make):
        ROWS.append((work, detail, peer, graph, make))
        return make

    return add


def turns(each, most=64):
    return int(min(max(-(-ROTATE // each), 1), most))


def elapsed(run):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3


def measure(calls, graph):
    """Microseconds of one call."""

    def once():
        for c in calls:
            c()

    once()
    torch.cuda.synchronize()
    rounds = max(1, min(1000, int(BATCH_US / max(elapsed(once), 1.0))))
    run = lambda: [once() for _ in range(rounds)]
    if graph:
        g = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            once()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(g):
            run()
        run = g.replay
    run()
    return statistics.median(elapsed(run) for _ in range(BATCHES)) / (rounds * len(calls))


def randn(*dims, dtype=torch.bfloat16):
    return torch.randn(*dims, device="cuda", dtype=dtype)


@row("copy", "1 GiB, read + written", "PyTorch")
def copy():
    a, b = (torch.empty(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(2))
    return [lambda: b.copy_(a)]


@row("GEMM bf16", "8192³", "PyTorch")
def gemm():
    a, b, c = (randn(8192, 8192) for _ in range(3))
    return [lambda: torch.matmul(a, b, out=c)]


def weights(n, k, nested, count):
    import bitsandbytes.functional as F

    return [F.quantize_4bit(randn(n, k), blocksize=64, quant_type="nf4", compress_statistics=nested) for _ in range(count)]


def quantized_rows(n, k):
    import bitsandbytes.functional as F

    for nested in (False, True):

        def dequantize(nested=nested):
            return [lambda q=q, s=s: F.dequantize_4bit(q, s) for q, s in weights(n, k, nested, turns(2.5 * n * k))]

        row("dequantize NF4→bf16", "%d×%d, %s" % (n, k, "nested" if nested else "plain"), "bitsandbytes")(dequantize)

    @row("quantize NF4", "%d×%d of bf16" % (n, k), "bitsandbytes", graph=False)
    def quantize4():
        return [lambda x=randn(n, k): F.quantize_4bit(x, blocksize=64, quant_type="nf4") for _ in range(turns(2.5 * n * k))]

    @row("8-bit blockwise quantize", "1e+08 bf16, block 256", "bitsandbytes", graph=False)
    def quantize8():
        x = randn(10**8)
        return [lambda: F.quantize_blockwise(x, blocksize=256)]

    @row("8-bit blockwise dequantize", "1e+08 bf16, block 256", "bitsandbytes")
    def dequantize8():
        q, s = F.quantize_blockwise(randn(10**8), blocksize=256)
        return [lambda: F.dequantize_blockwise(q, s)]


def linear_rows():
    import bitsandbytes as bnb

    def linear(work, m, n, k):
        def make():
            ws = weights(n, k, True, turns(0.53 * n * k, 8 if m >= 512 else 64))
            x = randn(m, k)
            return [lambda q=q, s=s: bnb.matmul_4bit(x, q.t(), quant_state=s) for q, s in ws]

        def dense():
            ws = [randn(n, k) for _ in range(turns(2 * n * k, 4))]
            x = randn(m, k)
            return [lambda w=w: torch.nn.functional.linear(x, w) for w in ws]

        detail = "M=%d, %d×%d" % (m, n, k)
        row(work, detail, "bitsandbytes")(make)
        row(work, detail, "PyTorch, bf16 weight")(dense)

    for n, k in ((4096, 14336), (14336, 4096), (4096, 4096)):
        for m in (1, 4, 16, 32, 64):
            linear("NF4 GEMV", m, n, k)
    for m in (512, 2048, 8192):
        linear("NF4 linear", m, 4096, 4096)
    linear("NF4 linear", 8192, 4096, 14336)

    for threshold in (0.0, 6.0):

        def int8(threshold=threshold):
            layer = bnb.nn.Linear8bitLt(4096, 14336, bias=False, has_fp16_weights=False, threshold=threshold)
            layer = layer.half().cuda()
            x = randn(8192, 4096, dtype=torch.float16)
            if threshold:
                x[:, ::1024] *= 10  # columns beyond the threshold
            return [lambda: layer(x)]

        row("Linear8bitLt", "8192×4096→14336, threshold %d" % threshold, "bitsandbytes, f16", graph=False)(int8)

    @row("Linear8bitLt", "8192×4096→14336, threshold 0", "PyTorch, bf16 weight")
    def dense8():
        x, w = randn(8192, 4096), randn(14336, 4096)
        return [lambda: torch.nn.functional.linear(x, w)]


def lora_shapes():
    """The adapters' tensors of a Llama of 8B: rank 16 on seven projections of 32 layers."""
    ends = [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), (4096, 14336), (4096, 14336), (14336, 4096)]
    return [s for _ in range(32) for i, o in ends for s in ((16, i), (o, 16))]


def optimizer_rows():
    import bitsandbytes as bnb

    sets = (("16 tensors, 1e+09 bf16 in one launch", lambda: [(62_500_000,)] * 16, torch.bfloat16),
            ("448 tensors, 4.194e+07 f32 in one launch", lora_shapes, torch.float32))
    peers = (("bitsandbytes AdamW8bit", lambda p: bnb.optim.AdamW8bit(p, lr=1e-4)),
             ("PyTorch fused AdamW", lambda p: torch.optim.AdamW(p, lr=1e-4, fused=True)))
    for detail, shapes, dtype in sets:
        for name, build in peers:

            def step(shapes=shapes, dtype=dtype, build=build):
                params = [torch.nn.Parameter(torch.randn(s, device="cuda", dtype=dtype)) for s in shapes()]
                for p in params:
                    p.grad = torch.randn_like(p) * 1e-3
                return [build(params).step]

            row("AdamW 8-bit", detail, name, graph=False)(step)


def attention_rows():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def attend(b, s, detail, backend, name):
        def operands():
            make = lambda h: randn(b, h, s, 128).requires_grad_()
            return make(32), make(8), make(8)

        def call(q, k, v):
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        def forward():
            q, k, v = operands()

            def run():
                with torch.no_grad():
                    call(q, k, v)

            return [run]

        def backward():
            q, k, v = operands()
            out = call(q, k, v)
            g = torch.randn_like(out)
            return [lambda: torch.autograd.grad(out, (q, k, v), g, retain_graph=True)]

        row("attention", detail + ", forward", name)(forward)
        row("attention", detail + ", backward", name, graph=False)(backward)

    for backend, name in ((SDPBackend.CUDNN_ATTENTION, "PyTorch, cuDNN"), (SDPBackend.FLASH_ATTENTION, "PyTorch, flash")):
        attend(2, 4096, "causal GQA 32/8, d 128, b2 s4096", backend, name)
        attend(16, 512, "16×512 packed documents", backend, name)


def norm_rows():
    f = torch.nn.functional

    def both(work, detail, call, operands, parameters, backward):
        """Rows of a function of x and parameters; backward is the work of the gradient's row."""

        def forward():
            p = parameters()
            return [lambda x=operands(): call(x, *p) for _ in range(3)]

        def gradient():
            p = [q.requires_grad_() for q in parameters()]

            def one():
                x = operands().requires_grad_()
                y = call(x, *p)
                g = torch.randn_like(y)
                return lambda: torch.autograd.grad(y, (x, *p), g, retain_graph=True)

            return [one() for _ in range(3)]

        row(work + " forward", detail, "PyTorch")(forward)
        row(work + backward, detail, "PyTorch", graph=False)(gradient)

    rows = lambda: randn(8192, 4096)
    both("RMSNorm", "bf16[8192,4096]", lambda x, w: f.rms_norm(x, (4096,), w, 1e-6), rows, lambda: [randn(4096)], " backward with weight")
    both("LayerNorm", "bf16[8192,4096]", lambda x, w, b: f.layer_norm(x, (4096,), w, b), rows, lambda: [randn(4096), randn(4096)],
         " backward with parameters")
    both("SwiGLU", "bf16[8192,14336]", lambda x, up: f.silu(x) * up, lambda: randn(8192, 14336), lambda: [randn(8192, 14336)], " backward")
    labels = torch.randint(128256, (2048,), device="cuda") if torch.cuda.is_available() else None
    both("cross-entropy", "bf16[2048,128256]", lambda x: f.cross_entropy(x, labels), lambda: randn(2048, 128256), lambda: [], " backward")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default="", help="beginnings of the work of rows, separated by commas; empty: all")
    p.add_argument("--list", action="store_true", help="print the rows and end")
    a = p.parse_args()
    for rows in (lambda: quantized_rows(4096, 14336), linear_rows, optimizer_rows, attention_rows, norm_rows):
        try:
            rows()
        except ImportError as e:
            print("rows left out: %s" % e, file=sys.stderr)
    only = [o.strip() for o in a.only.split(",") if o]
    for work, detail, peer, graph, make in ROWS:
        if only and not any(work.startswith(o) for o in only):
            continue
        line = {"work": work, "detail": detail, "peer": peer}
        if not a.list:
            try:
                line["us"] = measure(make(), graph)
                line["graph"] = graph
            except Exception as e:  # a row that fails says why, the others are measured
                line["error"] = "%s: %s" % (type(e).__name__, str(e).split("\n")[0])
            gc.collect()
            torch.cuda.empty_cache()
        print(json.dumps(line, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
