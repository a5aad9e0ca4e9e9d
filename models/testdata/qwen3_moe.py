"""Writes models/testdata/qwen3_moe: a tiny random Qwen3-MoE with results of transformers (written with 5.24.0, torch 2, float32, CPU).

Layer 1 has a plain MLP (mlp_only_layers); weights of a token's experts do not add up to 1 (norm_topk_prob false). The file layout is that of
the larger reference data: input_ids, attention_mask, labels, logits, loss, per_token_loss, grad.NAME, router_logits; beside
them aux_grad.NAME, gradients of the load-balancing loss. golden.json has greedy and aux_loss.
"""
import json, os, sys
import torch
from safetensors.torch import save_file, load_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "qwen3_moe")
torch.manual_seed(7)
cfg = Qwen3MoeConfig(vocab_size=48, hidden_size=32, intermediate_size=40, moe_intermediate_size=12, num_hidden_layers=3, num_attention_heads=4,
                     num_key_value_heads=2, head_dim=8, num_experts=5, num_experts_per_tok=2, norm_topk_prob=False, mlp_only_layers=[1],
                     decoder_sparse_step=1, max_position_embeddings=64, initializer_range=0.2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                     attn_implementation="eager")
model = Qwen3MoeForCausalLM(cfg).float().eval()
with torch.no_grad():
    for n, p in model.named_parameters():
        torch.nn.init.normal_(p, 1.0 if "norm" in n else 0.0, 0.2)
model.save_pretrained(out)
stored = load_file(os.path.join(out, "model.safetensors"))

ids = torch.randint(3, 48, (2, 14)); mask = torch.ones_like(ids); mask[1, 10:] = 0; ids[1, 10:] = 0
labels = ids.clone(); labels[:, :3] = -100; labels[1, 10:] = -100
res = model(input_ids=ids, attention_mask=mask, output_router_logits=True)
each = torch.nn.functional.cross_entropy(res.logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
loss = each.sum() / (labels[:, 1:] != -100).sum()
loss.backward()
t = {"input_ids": ids, "attention_mask": mask, "labels": labels, "logits": (res.logits * mask[..., None]).detach(), "loss": loss.detach()[None],
     "per_token_loss": each.detach(), "router_logits": torch.stack([r.reshape(2, 14, -1) for r in res.router_logits]).detach()}
grads = {n: p.grad for n, p in model.named_parameters()}
for name in stored:
    if name in grads:
        t["grad." + name] = grads[name]
        continue
    layer, rest = name.split(".mlp.experts.")
    e, proj, _ = rest.split(".")
    fused = grads[layer + ".mlp.experts." + ("down_proj" if proj == "down_proj" else "gate_up_proj")][int(e)]
    t["grad." + name] = {"gate_proj": lambda: fused[:12], "up_proj": lambda: fused[12:], "down_proj": lambda: fused}[proj]()
aux = load_balancing_loss_func(model(input_ids=ids, attention_mask=mask, output_router_logits=True).router_logits, 5, 2, mask)
names = ["model.layers.0.mlp.gate.weight", "model.layers.2.mlp.gate.weight", "model.layers.0.input_layernorm.weight"]
params = dict(model.named_parameters())
for name, g in zip(names, torch.autograd.grad(aux, [params[n] for n in names])):
    t["aux_grad." + name] = g
save_file({k: v.contiguous() for k, v in t.items()}, os.path.join(out, "golden.safetensors"), {"format": "pt"})
prompt = [1, 9, 30, 4]
greedy = model.generate(torch.tensor([prompt]), max_new_tokens=20, min_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)[0, 4:].tolist()
json.dump({"aux_loss": float(aux.detach()), "greedy": {"prompt": prompt, "tokens": greedy}}, open(os.path.join(out, "golden.json"), "w"))
for f in ("generation_config.json",):
    p = os.path.join(out, f)
    if os.path.exists(p): os.remove(p)
for f in os.listdir(out):
    os.chmod(os.path.join(out, f), 0o644)
