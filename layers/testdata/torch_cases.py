"""Writes torch_cases.json.gz: layers and losses of PyTorch in float64 with their outputs and gradients.

The loss is half the sum of the squares of all floating-point outputs. Run with PyTorch 1.12 or newer: python torch_cases.py
"""
import gzip
import io
import json
import os

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
cases = []


def pack(t):
    t = t.detach()
    kind = "i32" if t.dtype in (torch.int32, torch.int64) else "bool" if t.dtype == torch.bool else "f64"
    data = [int(v) for v in t.reshape(-1)] if kind != "f64" else [float("%.15g" % v) for v in t.reshape(-1)]
    return {"dtype": kind, "shape": list(t.shape), "data": data}


def case(name, layer, args, inputs, f, module=None, tol=1e-9):
    """f maps the inputs to outputs; the state is that before the call, state_after that after it."""
    state = {k: pack(v) for k, v in module.state_dict().items()} if module else {}
    if module:
        module.zero_grad()
    xs = [x.requires_grad_() if x.is_floating_point() else x for x in inputs]
    outs = f(*xs)
    outs = list(outs) if isinstance(outs, (tuple, list)) else [outs]
    loss = sum((o * o).sum() / 2 for o in outs if o.is_floating_point())
    loss.backward()
    c = {"name": name, "layer": layer, "args": args, "state": state, "tol": tol, "inputs": [pack(x) for x in xs],
         "outputs": [pack(o) for o in outs], "grad_inputs": [pack(x.grad) if x.is_floating_point() and x.grad is not None else None for x in xs]}
    if module:
        c["grad_state"] = {k: pack(p.grad) for k, p in module.named_parameters()}
        c["state_after"] = {k: pack(v) for k, v in module.named_buffers()}
    cases.append(c)


def r(*dims):
    return torch.randn(*dims)


def conv(name, cls, x, args):
    m = cls(x.shape[1], args["out"], tuple(args["kernel"]), stride=tuple(args["stride"]), padding=tuple(args["pad"]),
            dilation=tuple(args["dilation"]), groups=args["groups"], bias=args["bias"])
    case(name, "conv", args, [x], m, m)


def options(out, kernel, stride, pad, dilation, groups=1, bias=True, **more):
    return dict(out=out, kernel=kernel, stride=stride, pad=pad, dilation=dilation, groups=groups, bias=bias, **more)


conv("conv1d", nn.Conv1d, r(2, 4, 9), options(6, [3], [2], [1], [2], 2))
conv("conv2d", nn.Conv2d, r(2, 3, 7, 6), options(4, [3, 2], [1, 2], [2, 0], [2, 1], bias=False))
conv("conv3d", nn.Conv3d, r(1, 2, 4, 3, 5), options(2, [2, 3, 2], [1, 1, 2], [0, 1, 1], [1, 1, 2], 2))


def up(name, cls, x, args):
    m = cls(x.shape[1], args["out"], tuple(args["kernel"]), stride=tuple(args["stride"]), padding=tuple(args["pad"]),
            output_padding=tuple(args["output_pad"]), dilation=tuple(args["dilation"]), groups=args["groups"], bias=args["bias"])
    case(name, "conv_transpose", args, [x], m, m)


up("conv_transpose1d", nn.ConvTranspose1d, r(2, 4, 5), options(6, [4], [3], [2], [2], 2, output_pad=[2]))
up("conv_transpose2d", nn.ConvTranspose2d, r(2, 3, 4, 3), options(2, [3, 2], [2, 3], [1, 0], [1, 1], output_pad=[1, 2]))

x = r(2, 2, 7, 8)
for ceil in (False, True):
    a = dict(kernel=[3, 2], stride=[2, 3], pad=[1, 1], dilation=[2, 1], ceil=ceil)
    case(f"max_pool_{ceil}", "max_pool", a, [x.clone()],
         lambda v: F.max_pool2d(v, (3, 2), (2, 3), (1, 1), (2, 1), ceil, return_indices=True))
    for count in (False, True):
        a = dict(kernel=[3, 2], stride=[2, 3], pad=[1, 1], dilation=[1, 1], ceil=ceil, count=count)
        case(f"avg_pool_{ceil}_{count}", "avg_pool", a, [x.clone()], lambda v: F.avg_pool2d(v, (3, 2), (2, 3), (1, 1), ceil, count))
case("lp_pool", "lp_pool", dict(kernel=[2, 3], stride=[2, 3], p=3), [x.abs()], lambda v: F.lp_pool2d(v, 3, (2, 3), (2, 3)))
case("adaptive_avg", "adaptive", dict(out=[3, 5], max=False), [x.clone()], lambda v: F.adaptive_avg_pool2d(v, (3, 5)))
case("adaptive_max", "adaptive", dict(out=[4, 3], max=True), [x.clone()], lambda v: F.adaptive_max_pool2d(v, (4, 3)))
case("lrn", "lrn", dict(size=4, alpha=0.3, beta=0.75, k=2.0), [r(2, 7, 3, 2)], lambda v: F.local_response_norm(v, 4, 0.3, 0.75, 2.0))
case("normalize", "normalize", dict(p=3.0, axis=1), [r(2, 7, 3)], lambda v: F.normalize(v, 3.0, 1))

bn = nn.BatchNorm2d(3)
for p in bn.parameters():
    nn.init.normal_(p)
case("batch_norm_train", "batch_norm", dict(train=True), [r(2, 3, 4, 2)], bn, bn, tol=1e-6)
bn.eval()
case("batch_norm_eval", "batch_norm", dict(train=False), [r(2, 3, 4, 2)], bn, bn, tol=1e-6)
gn = nn.GroupNorm(2, 6)
for p in gn.parameters():
    nn.init.normal_(p)
case("group_norm", "group_norm", dict(groups=2), [r(3, 6, 5)], gn, gn)
ln = nn.LayerNorm(6)
for p in ln.parameters():
    nn.init.normal_(p)
case("layer_norm", "layer_norm", {}, [r(3, 2, 6)], ln, ln)

lengths = torch.tensor([5, 3, 1])
for cell, cls, kw in (("tanh", nn.RNN, {}), ("relu", nn.RNN, {"nonlinearity": "relu"}), ("gru", nn.GRU, {}), ("lstm", nn.LSTM, {})):
    m = cls(3, 4, num_layers=2, bidirectional=True, batch_first=True, **kw)
    lstm = cell == "lstm"

    def packed(v, h, *c):
        seq = nn.utils.rnn.pack_padded_sequence(v, lengths, batch_first=True)
        y, last = m(seq, (h, c[0]) if lstm else h)
        y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True)
        return (y, *last) if lstm else (y, last)

    case("packed_" + cell, "recurrent", dict(cell=cell, layers=2, bidirectional=True, lengths=lengths.tolist()),
         [r(3, 5, 3), r(4, 3, 4)] + ([r(4, 3, 4)] if lstm else []), packed, m)
    plain = cls(3, 4, **kw)

    def run(v):
        y, last = plain(v)
        return (y, *last) if lstm else (y, last)

    case("plain_" + cell, "recurrent", dict(cell=cell, layers=1, bidirectional=False), [r(4, 2, 3)], run, plain)

for name, kw, causal, pad, added in (("self", {}, False, False, False), ("causal", {}, True, False, False), ("padding", {}, False, True, False),
                                     ("cross", dict(kdim=5, vdim=3), False, True, True)):
    m = nn.MultiheadAttention(8, 2, batch_first=True, **kw)
    for p in m.parameters():
        nn.init.normal_(p, std=0.5)
    q, k, v = r(2, 4, 8), r(2, 4, kw.get("kdim", 8)), r(2, 4, kw.get("vdim", 8))
    padding = torch.tensor([[False, True, False, True], [False, False, False, False]]) if pad else None
    mask = torch.triu(torch.ones(4, 4, dtype=torch.bool), 1) if causal else r(4, 4) if added else None
    case("mha_" + name, "mha", dict(causal=causal, kdim=kw.get("kdim", 0), vdim=kw.get("vdim", 0), padding=pack(padding) if pad else None,
                                    mask=pack(mask) if added else None), [q, k, v],
         lambda q, k, v: m(q, k, v, key_padding_mask=padding, attn_mask=mask, need_weights=False)[0], m)

labels = torch.tensor([[0, 4, 1], [2, 4, 3]])
for red in ("mean", "sum", "none"):
    for smooth, weighted in ((0.0, True), (0.2, True), (0.2, False)):
        w = torch.tensor([0.5, 1.5, 1.0, 2.0, 0.3]) if weighted else None
        case(f"cross_entropy_{red}_{smooth}_{weighted}", "cross_entropy", dict(reduction=red, smoothing=smooth, weighted=weighted, ignore=4),
             [r(2, 5, 3), labels] + ([w] if weighted else []),
             lambda z, y, *w: F.cross_entropy(z, y, w[0].detach() if w else None, ignore_index=4, reduction=red, label_smoothing=smooth))
a, b, prob = r(3, 4), r(3, 4), torch.rand(3, 4)
for red in ("mean", "sum", "none"):
    case("mse_" + red, "mse", dict(reduction=red), [a.clone(), b.clone()], lambda x, y: F.mse_loss(x, y, reduction=red))
    case("l1_" + red, "l1", dict(reduction=red), [a.clone(), b.clone()], lambda x, y: F.l1_loss(x, y, reduction=red))
    case("huber_" + red, "huber", dict(reduction=red, delta=0.6), [a.clone(), b.clone()], lambda x, y: F.huber_loss(x, y, reduction=red, delta=0.6))
    case("smooth_l1_" + red, "smooth_l1", dict(reduction=red, delta=0.6), [a.clone(), b.clone()], lambda x, y: F.smooth_l1_loss(x, y, reduction=red, beta=0.6))
    case("binary_" + red, "binary", dict(reduction=red), [a.clone(), prob.clone(), torch.tensor([0.5, 1.0, 2.0, 3.0])],
         lambda x, y, p: F.binary_cross_entropy_with_logits(x, y.detach(), reduction=red, pos_weight=p.detach()))
for red in ("batchmean", "mean", "sum", "none"):
    logp, target = torch.log_softmax(r(3, 4), -1), torch.softmax(r(3, 4), -1)
    case("kl_" + red, "kl", dict(reduction=red, log=False), [logp.clone(), target.clone()], lambda x, y: F.kl_div(x, y.detach(), reduction=red))
    case("kl_log_" + red, "kl", dict(reduction=red, log=True), [logp.clone(), target.log()], lambda x, y: F.kl_div(x, y.detach(), reduction=red, log_target=True))

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "torch_cases.json.gz")
with gzip.GzipFile(path, "w", mtime=0) as raw, io.TextIOWrapper(raw) as f:
    f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
print(len(cases), "cases, torch", torch.__version__)
