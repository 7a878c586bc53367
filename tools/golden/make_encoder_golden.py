#!/usr/bin/env python3
"""Golden file of the scGPT-style cell encoder: forward, losses and parameter gradients.

    python make_encoder_golden.py tests/golden/encoder_tiny.safetensors
    python make_encoder_golden.py tests/golden/encoder_64.safetensors --width 64 --heads 4 --d-hid 64 --joint

Plain PyTorch, written for this project; needs `torch` and `safetensors`. Everything is computed in f64 from
parameters and inputs that are exactly representable in f32, and stored as f32 (indices as i32).
The defaults keep the file under 700 KB; head width is 16. Other sizes come from the options.

Model (post-norm, no positional encoding, dropout 0, LayerNorm eps 1e-5)
    x_g = LN(E[gene])                                        encoder.embedding, encoder.enc_norm
    x_v = LN(W2 relu(W1 min(v, 512) + b1) + b2)              value_encoder
    x   = x_g + x_v
    layer:  x = LN1(x + out_proj(attention(Wqkv x)));  x = LN2(x + W2 relu(W1 x))
    attention: rows of Wqkv are [Wq; Wk; Wv], heads contiguous, scale 1/sqrt(head width), keys >= length masked.
Inputs: `input.values` go to the model as they are in every objective (position 0, <cls>, has the value -2; one value
exceeds the clamp). Tokens at positions >= length are <pad>; nothing stored depends on them (checked below) and
`output.*hidden` is written as 0 there.

Cell embeddings (before any head)
    cls       hidden[0]
    mean      mean over the real tokens, <cls> included, pads excluded
    weighted  sum over real tokens except <cls> of value * hidden, then x / max(|x|_2, 1e-12); the value is not clamped;
              the cell with no gene at all has the zero vector.

Objectives (`loss.<objective>` and `grad.<objective>.<parameter>`); masked MSE = sum(((p - t) m)^2) / sum(m)
    masked                   p = ExprDecoder(hidden), m = input.target_mask
    mvc                      p = (W sigmoid(gene2query(x_g))) . hidden[0], m = input.target_mask
    classification           cross-entropy of ClsDecoder(cls); label -100 ignored; mean over the other labels
    classification_weighted  the same on the weighted embedding
    generative               tokens [0, known) are perceptual (x_g + x_v), tokens [known, length) are generated
                             (x_g + flag_encoder[1]). Perceptual rows see the perceptual keys; generated rows see the
                             perceptual keys and themselves. BOTH streams go through out_proj.
                             Loss = masked MSE of ExprDecoder + masked MSE of MVC, m = generated rows.
    generative_quirk         the same, but for generated rows the attention context is added to the residual directly,
                             without out_proj (weights and bias), as the reference's public generative code does.
With --joint two objectives take the place of these, to keep a wider model's file small: `joint`, which is
masked + 0.5 mvc + 0.25 classification in one pass, and `generative`.
Gradients that are zero everywhere are not stored: metadata `zero_grads` names them. The <pad> row of
encoder.embedding.weight gets no gradient.
"""

import argparse
import json
import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

VOCAB, PAD, CLS, EOC = 40, 37, 38, 39
LAYERS, CLASSES = 2, 5
LENGTHS, KNOWN, LABELS = [11, 7, 1], [6, 4, 1], [3, -100, 1]
SEQ = max(LENGTHS)
CLAMP, LN_EPS = 512.0, 1e-5


def make_params(width, d_hid, gen):
    """Random parameters under the names of an scGPT checkpoint, as f64 tensors with f32-exact entries."""
    shapes = {
        "encoder.embedding.weight": (VOCAB, width),
        "encoder.enc_norm": "norm",
        "flag_encoder.weight": (2, width),
        "value_encoder.linear1": (width, 1),
        "value_encoder.linear2": (width, width),
        "value_encoder.norm": "norm",
    }
    for i in range(LAYERS):
        p = f"transformer_encoder.layers.{i}."
        shapes[p + "self_attn.Wqkv"] = (3 * width, width)
        shapes[p + "self_attn.out_proj"] = (width, width)
        shapes[p + "linear1"] = (d_hid, width)
        shapes[p + "linear2"] = (width, d_hid)
        shapes[p + "norm1"] = "norm"
        shapes[p + "norm2"] = "norm"
    shapes |= {
        "decoder.fc.0": (width, width),
        "decoder.fc.2": (width, width),
        "decoder.fc.4": (1, width),
        "mvc_decoder.gene2query": (width, width),
        "mvc_decoder.W.weight": (width, width),
        "cls_decoder._decoder.0": (width, width),
        "cls_decoder._decoder.2": "norm",
        "cls_decoder._decoder.3": (width, width),
        "cls_decoder._decoder.5": "norm",
        "cls_decoder.out_layer": (CLASSES, width),
    }

    def normal(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float32)

    params = {}
    for name, shape in shapes.items():
        if shape == "norm":
            params[name + ".weight"] = 1.0 + 0.2 * normal(width)
            params[name + ".bias"] = 0.2 * normal(width)
        elif name.endswith(".weight"):  # tables, and matrices without a bias
            scale = shape[1] ** -0.5 if name.startswith("mvc") else 1.0
            params[name] = scale * normal(*shape)
        else:
            params[name + ".weight"] = shape[1] ** -0.5 * normal(*shape)
            params[name + ".bias"] = 0.2 * normal(shape[0])
    return {k: v.double().requires_grad_() for k, v in params.items()}


def make_inputs(gen):
    lengths = torch.tensor(LENGTHS)
    real = torch.arange(SEQ)[None] < lengths[:, None]
    genes = torch.stack([torch.randperm(PAD, generator=gen)[:SEQ] for _ in LENGTHS])
    genes[:, 0] = CLS
    genes[~real] = PAD
    values = torch.empty(len(LENGTHS), SEQ).exponential_(0.6, generator=gen)
    values[:, 0] = -2.0
    values[1, 2] = 600.0
    values[0, 4] = 0.0
    values[~real] = -2.0
    targets = torch.empty(len(LENGTHS), SEQ).exponential_(0.8, generator=gen)
    mask = (torch.rand(len(LENGTHS), SEQ, generator=gen) < 0.5) & real
    mask[:, 0] = False
    assert mask[0].any() and mask[1].any()
    return {
        "gene_ids": genes,
        "values": values.double(),
        "lengths": lengths,
        "known_lengths": torch.tensor(KNOWN),
        "labels": torch.tensor(LABELS),
        "targets": targets.double(),
        "target_mask": mask.double(),
    }


class Encoder:
    def __init__(self, params, heads):
        self.p, self.heads = params, heads

    def linear(self, name, x):
        return F.linear(x, self.p[name + ".weight"], self.p.get(name + ".bias"))

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.p[name + ".weight"], self.p[name + ".bias"], LN_EPS)

    def genes(self, ids):
        return self.norm("encoder.enc_norm", F.embedding(ids, self.p["encoder.embedding.weight"], padding_idx=PAD))

    def values(self, v):
        h = F.relu(self.linear("value_encoder.linear1", v.clamp(max=CLAMP)[..., None]))
        return self.norm("value_encoder.norm", self.linear("value_encoder.linear2", h))

    def layers(self, x, allowed, skip_out_proj=None):
        """`allowed` [B, row, key] is True where a row may see a key; `skip_out_proj` [B, row]."""
        b, n, width = x.shape
        for i in range(LAYERS):
            p = f"transformer_encoder.layers.{i}."
            qkv = self.linear(p + "self_attn.Wqkv", x).view(b, n, 3, self.heads, width // self.heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            score = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)
            score = score.masked_fill(~allowed[:, None], float("-inf"))
            context = (score.softmax(-1) @ v).transpose(1, 2).reshape(b, n, width)
            attended = self.linear(p + "self_attn.out_proj", context)
            if skip_out_proj is not None:
                attended = torch.where(skip_out_proj[..., None], context, attended)
            x = self.norm(p + "norm1", x + attended)
            x = self.norm(p + "norm2", x + self.linear(p + "linear2", F.relu(self.linear(p + "linear1", x))))
        return x

    def encode(self, inp):
        n = inp["gene_ids"].shape[1]
        real = torch.arange(n)[None] < inp["lengths"][:, None]
        # A pad row may see itself too, so that its softmax is defined; no real row sees a pad.
        allowed = real[:, None, :] | torch.eye(n, dtype=torch.bool)
        x_g = self.genes(inp["gene_ids"])
        return x_g, self.layers(x_g + self.values(inp["values"]), allowed)

    def encode_generative(self, inp, quirk):
        n = inp["gene_ids"].shape[1]
        position = torch.arange(n)[None]
        known = position < inp["known_lengths"][:, None]
        generated = ~known & (position < inp["lengths"][:, None])
        allowed = known[:, None, :] | torch.eye(n, dtype=torch.bool)
        x_g = self.genes(inp["gene_ids"])
        second = torch.where(known[..., None], self.values(inp["values"]), self.p["flag_encoder.weight"][1])
        return x_g, self.layers(x_g + second, allowed, generated if quirk else None), generated.double()

    def expression(self, hidden):
        h = F.leaky_relu(self.linear("decoder.fc.0", hidden), 0.01)
        h = F.leaky_relu(self.linear("decoder.fc.2", h), 0.01)
        return self.linear("decoder.fc.4", h).squeeze(-1)

    def mvc(self, x_g, cell):
        query = self.linear("mvc_decoder.W", torch.sigmoid(self.linear("mvc_decoder.gene2query", x_g)))
        return (query * cell[:, None]).sum(-1)

    def classify(self, cell):
        for i in (0, 3):
            cell = self.norm(f"cls_decoder._decoder.{i + 2}", F.relu(self.linear(f"cls_decoder._decoder.{i}", cell)))
        return self.linear("cls_decoder.out_layer", cell)


def cell_embeddings(hidden, inp):
    position = torch.arange(hidden.shape[1])[None]
    real = (position < inp["lengths"][:, None]).double()
    weight = real * (position > 0) * inp["values"]
    return {
        "cls": hidden[:, 0],
        "mean": (hidden * real[..., None]).sum(1) / real.sum(1, keepdim=True),
        "weighted": F.normalize((hidden * weight[..., None]).sum(1), dim=-1, eps=1e-12),
    }


def masked_mse(pred, target, mask):
    return (((pred - target) * mask) ** 2).sum() / mask.sum()


def evaluate(model, inp):
    """All outputs and the scalar loss of each objective."""
    out, loss = {}, {}
    x_g, hidden = model.encode(inp)
    cells = cell_embeddings(hidden, inp)
    out["hidden"] = hidden
    out |= {f"cell_embedding.{k}": v for k, v in cells.items()}
    out["masked.pred"] = model.expression(hidden)
    loss["masked"] = masked_mse(out["masked.pred"], inp["targets"], inp["target_mask"])
    out["mvc.pred"] = model.mvc(x_g, cells["cls"])
    loss["mvc"] = masked_mse(out["mvc.pred"], inp["targets"], inp["target_mask"])
    for name, kind in (("classification", "cls"), ("classification_weighted", "weighted")):
        out[name + ".logits"] = model.classify(cells[kind])
        loss[name] = F.cross_entropy(out[name + ".logits"], inp["labels"], ignore_index=-100)
    for name, quirk in (("generative", False), ("generative_quirk", True)):
        x_g, hidden, generated = model.encode_generative(inp, quirk)
        out[name + ".hidden"] = hidden
        out[name + ".pred"] = model.expression(hidden)
        out[name + ".mvc_pred"] = model.mvc(x_g, hidden[:, 0])
        loss[name] = masked_mse(out[name + ".pred"], inp["targets"], generated)
        loss[name] = loss[name] + masked_mse(out[name + ".mvc_pred"], inp["targets"], generated)
    return out, loss


def check_padding(model, inp):
    """Other gene ids, values and targets at the pads must change no loss."""
    pads = torch.arange(SEQ)[None] >= inp["lengths"][:, None]
    other = {k: v.clone() for k, v in inp.items()}
    other["gene_ids"][pads] = EOC
    other["values"][pads] = 3.0
    other["targets"][pads] = 9.0
    a, b = evaluate(model, inp)[1], evaluate(model, other)[1]
    assert all(torch.equal(a[k], b[k]) for k in a), "a loss depends on the pads"


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("output")
    ap.add_argument("--width", type=int, default=32)
    ap.add_argument("--heads", type=int, default=2)
    ap.add_argument("--d-hid", type=int, default=48)
    ap.add_argument("--seed", type=int, default=20250)
    ap.add_argument("--joint", action="store_true", help="one gradient for masked, mvc and classification together")
    args = ap.parse_args()

    torch.set_num_threads(1)
    gen = torch.Generator().manual_seed(args.seed)
    params = make_params(args.width, args.d_hid, gen)
    inp = make_inputs(gen)
    model = Encoder(params, args.heads)
    check_padding(model, inp)
    out, loss = evaluate(model, inp)
    if args.joint:
        joint = loss["masked"] + 0.5 * loss["mvc"] + 0.25 * loss["classification"]
        loss = {"joint": joint, "generative": loss["generative"]}

    tensors, zero = {}, []
    for k, v in params.items():
        tensors["param." + k] = v
    for k, v in inp.items():
        tensors["input." + k] = v
    real = torch.arange(SEQ)[None] < inp["lengths"][:, None]
    for k, v in out.items():
        if v.dim() >= 2 and v.shape[1] == SEQ:
            v = torch.where(real.view(real.shape + (1,) * (v.dim() - 2)), v, 0.0)
        tensors["output." + k] = v
    for k, v in loss.items():
        tensors["loss." + k] = v
        grads = torch.autograd.grad(v, list(params.values()), retain_graph=True, allow_unused=True)
        for name, g in zip(params, grads):
            if g is None or not g.any():
                zero.append(f"{k}.{name}")
            else:
                assert name != "encoder.embedding.weight" or not g[PAD].any()
                tensors[f"grad.{k}.{name}"] = g

    def stored(t):
        t = t.detach()
        return (t.float() if t.is_floating_point() else t.int()).contiguous().clone()

    tensors = {k: stored(v) for k, v in tensors.items()}
    metadata = {
        "script": "tools/golden/make_encoder_golden.py",
        "torch": torch.__version__,
        "seed": str(args.seed),
        "compute": "f64 from f32-exact parameters and inputs, stored as f32",
        "config": json.dumps(
            {
                "vocabulary": VOCAB, "pad": PAD, "cls": CLS, "eoc": EOC, "layers": LAYERS, "width": args.width,
                "heads": args.heads, "d_hid": args.d_hid, "norm_first": False, "dropout": 0.0, "max_value": CLAMP,
                "ln_eps": LN_EPS, "classes": CLASSES, "nlayers_cls": 3, "batch": len(LENGTHS), "seq_len": SEQ,
            }
        ),
        "objectives": json.dumps(list(loss)),
        "shapes": json.dumps({k: list(v.shape) for k, v in params.items()}),
        "zero_grads": json.dumps(zero),
    }
    save_file(tensors, args.output, metadata)
    for k, v in loss.items():
        print(f"{k:26s}{v.item():.9f}")


if __name__ == "__main__":
    main()
