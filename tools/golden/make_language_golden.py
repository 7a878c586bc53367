#!/usr/bin/env python3
"""Golden file of the Llama-style language model: hidden states, logits, loss, and every parameter gradient.

    python make_language_golden.py tests/golden/language_tiny.safetensors

Plain PyTorch, written for this project; needs `torch` and `safetensors`. Everything is computed in f64 from parameters that are
exactly representable in f32, and stored as f32 (token ids as i32). Two layers, width 64, four query heads and two key heads of 16.

Model (pre-norm, RMS eps 1e-5, rotation base 10,000, no bias anywhere)
    norm(x) = x / sqrt(mean(x^2) + eps) * weight
    q, k, v = x Wq^T, x Wk^T, x Wv^T; element i of each head of q and k turns with element i + 8 by position * 10000^(-2i/16);
    query head h reads key head h / 2; scores / sqrt(16); causal
    x = x + Wo attention(norm(x));  x = x + Wdown (silu(Wgate y) * Wup y), y = norm(x)
    logits = norm(x) W^T, W the token table (tied) or `lm_head.weight` (untied)
Loss: cross-entropy of labels[1:] on logits[:-1], mean over the labels that are not -100. Sequences are padded at the end to the
longest; nothing stored depends on pads, and hidden states are written as 0 there.
`grad.tied.*` and `grad.untied.*` are the gradients of both variants; `logits.*` and `loss.*` likewise.
"""

import json
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

VOCAB, WIDTH, LAYERS, HEADS, KEY_HEADS, HEAD, WIDE = 53, 64, 2, 4, 2, 16, 40
EPS, THETA = 1e-5, 10_000.0
LENGTHS, SEED = [11, 6, 1], 20
SEQ = max(LENGTHS)


def make_params(gen):
    """Parameters under Hugging Face's names; large enough that attention is far from uniform."""

    def normal(*shape, scale):
        return (torch.randn(*shape, generator=gen, dtype=torch.float64) * scale).float().double().requires_grad_()

    params = {"model.embed_tokens.weight": normal(VOCAB, WIDTH, scale=0.3)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}."
        params[name + "input_layernorm.weight"] = (1 + normal(WIDTH, scale=0.2).detach()).float().double().requires_grad_()
        params[name + "self_attn.q_proj.weight"] = normal(HEADS * HEAD, WIDTH, scale=0.25)
        params[name + "self_attn.k_proj.weight"] = normal(KEY_HEADS * HEAD, WIDTH, scale=0.25)
        params[name + "self_attn.v_proj.weight"] = normal(KEY_HEADS * HEAD, WIDTH, scale=0.2)
        params[name + "self_attn.o_proj.weight"] = normal(WIDTH, HEADS * HEAD, scale=0.15)
        params[name + "post_attention_layernorm.weight"] = (1 + normal(WIDTH, scale=0.2).detach()).float().double().requires_grad_()
        params[name + "mlp.gate_proj.weight"] = normal(WIDE, WIDTH, scale=0.2)
        params[name + "mlp.up_proj.weight"] = normal(WIDE, WIDTH, scale=0.2)
        params[name + "mlp.down_proj.weight"] = normal(WIDTH, WIDE, scale=0.2)
    params["model.norm.weight"] = (1 + normal(WIDTH, scale=0.2).detach()).float().double().requires_grad_()
    params["lm_head.weight"] = normal(VOCAB, WIDTH, scale=0.2)
    return params


def norm(x, weight):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * weight


def rotate(x):
    """`[tokens, heads, HEAD]`, positions from 0."""
    half = HEAD // 2
    angle = torch.arange(x.shape[0], dtype=torch.float64)[:, None] * THETA ** (-2 * torch.arange(half, dtype=torch.float64) / HEAD)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    low, high = x[..., :half], x[..., half:]
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)


def hidden_states(params, ids):
    """One unpadded sequence of tokens."""
    return through(params, params["model.embed_tokens.weight"][ids])


def through(params, x):
    """One unpadded sequence of embedded tokens."""
    tokens = len(x)
    future = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
    for layer in range(LAYERS):
        p = lambda name: params[f"model.layers.{layer}.{name}.weight"]
        y = norm(x, p("input_layernorm"))
        q = rotate((y @ p("self_attn.q_proj").T).view(tokens, HEADS, HEAD))
        k = rotate((y @ p("self_attn.k_proj").T).view(tokens, KEY_HEADS, HEAD)).repeat_interleave(HEADS // KEY_HEADS, 1)
        v = (y @ p("self_attn.v_proj").T).view(tokens, KEY_HEADS, HEAD).repeat_interleave(HEADS // KEY_HEADS, 1)
        scores = torch.einsum("ihd,jhd->hij", q, k) / HEAD**0.5
        context = torch.einsum("hij,jhd->ihd", scores.masked_fill(future, -torch.inf).softmax(-1), v)
        x = x + context.reshape(tokens, -1) @ p("self_attn.o_proj").T
        y = norm(x, p("post_attention_layernorm"))
        x = x + (F.silu(y @ p("mlp.gate_proj").T) * (y @ p("mlp.up_proj").T)) @ p("mlp.down_proj").T
    return norm(x, params["model.norm.weight"])


def main():
    gen = torch.Generator().manual_seed(SEED)
    params = make_params(gen)
    ids = torch.randint(VOCAB, (len(LENGTHS), SEQ), generator=gen)
    labels = torch.where(torch.rand(ids.shape, generator=gen) < 0.7, ids, -100)
    tensors = {f"param.{name}": value.detach() for name, value in params.items()}
    tensors |= {"input.token_ids": ids, "input.labels": labels, "input.lengths": torch.tensor(LENGTHS)}

    sequences = [hidden_states(params, ids[item, :length]) for item, length in enumerate(LENGTHS)]
    tensors["output.hidden"] = torch.stack([F.pad(h.detach(), (0, 0, 0, SEQ - len(h))) for h in sequences])
    zero = []
    for variant, head in (("tied", "model.embed_tokens.weight"), ("untied", "lm_head.weight")):
        logits = [h @ params[head].T for h in sequences]
        pairs = [(l[:-1], labels[item, 1:length]) for item, (l, length) in enumerate(zip(logits, LENGTHS))]
        loss = F.cross_entropy(torch.cat([l for l, _ in pairs]), torch.cat([t for _, t in pairs]), ignore_index=-100)
        tensors[f"output.{variant}.last_logits"] = torch.stack([l[-1].detach() for l in logits])
        tensors[f"loss.{variant}"] = loss.detach().view(1)
        for name, gradient in zip(params, torch.autograd.grad(loss, list(params.values()), retain_graph=True, allow_unused=True)):
            if gradient is None:
                zero.append(f"{variant}.{name}")
            else:
                tensors[f"grad.{variant}.{name}"] = gradient
        print(f"{variant:8s}{loss.item():.9f}")

    config = {
        "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": WIDE, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS, "head_dim": HEAD, "vocab_size": VOCAB, "max_position_embeddings": 64, "rms_norm_eps": EPS,
        "rope_theta": THETA, "hidden_act": "silu", "batch": len(LENGTHS), "seq_len": SEQ,
    }
    metadata = {
        "script": "tools/golden/make_language_golden.py", "torch": torch.__version__, "seed": str(SEED),
        "compute": "f64 from f32-exact parameters, stored as f32", "config": json.dumps(config), "zero_grads": json.dumps(zero),
    }
    stored = {k: (v.float() if v.is_floating_point() else v.int()).contiguous().clone() for k, v in tensors.items()}
    save_file(stored, sys.argv[1], metadata)


if __name__ == "__main__":
    main()
