#!/usr/bin/env python3
"""Golden files of the text half of a Q-Former that starts from a BERT.

    python make_bert_golden.py tests/golden/bert_tiny.safetensors                        a small random BERT, weights included
    python make_bert_golden.py tests/golden/minilm.safetensors --bert FOLDER             sentence embeddings of a real one

Plain PyTorch, written for this project after Devlin et al. 2019; needs `torch` and `safetensors`. Everything is computed in f64 from
weights that are exactly representable in f32, and stored as f32 (indices as i32). FOLDER holds `config.json`, `model.safetensors` and
`vocab.txt` in Hugging Face's form (tools/fetch_minilm.sh makes one); the sentences are cut into word pieces here, by lower-casing,
splitting at spaces and punctuation, and the longest match first.

    output.hidden      [texts, seq_len, width]: the last layer, rows of padding 0
    output.sentences   [texts, width]: the mean over the real rows, divided by its length
"""

import argparse
import json
import math
import pathlib
import re

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

SENTENCES = [
    "Cell type: B cell. A lymphocyte of B lineage that is capable of B cell mediated immunity.",
    "B lymphocytes make antibodies.",
    "Monocytes circulate in the blood and become macrophages.",
    "The weather was fine.",
    "cell type: plasmacytoid dendritic cell, human.",
]

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 28, "max_position_embeddings": 12,
    "vocab_size": 20, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "model_type": "bert",
}  # fmt: skip


def small_bert(gen):
    """Random weights under Hugging Face's names."""
    width, wide = SMALL["hidden_size"], SMALL["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (SMALL["vocab_size"], width),
        "embeddings.position_embeddings.weight": (SMALL["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (SMALL["type_vocab_size"], width),
    }
    norms = ["embeddings.LayerNorm"]
    for index in range(SMALL["num_hidden_layers"]):
        layer = f"encoder.layer.{index}."
        sizes = {f"attention.self.{part}": (width, width) for part in ("query", "key", "value")}
        sizes |= {"attention.output.dense": (width, width), "intermediate.dense": (wide, width), "output.dense": (width, wide)}
        for name, shape in sizes.items():
            shapes[f"{layer}{name}.weight"], shapes[f"{layer}{name}.bias"] = shape, shape[:1]
        norms += [layer + "attention.output.LayerNorm", layer + "output.LayerNorm"]
    weights = {}
    for name, shape in shapes.items():
        scale = 0.2 if len(shape) == 1 else 1.0 if name.startswith("embeddings") else shape[1] ** -0.5
        weights[name] = scale * torch.randn(shape, generator=gen, dtype=torch.float32)
    for name in norms:
        weights[name + ".weight"] = 1.0 + 0.2 * torch.randn(width, generator=gen, dtype=torch.float32)
        weights[name + ".bias"] = 0.2 * torch.randn(width, generator=gen, dtype=torch.float32)
    return weights


def word_pieces(text, vocabulary, limit):
    """[CLS], the pieces, [SEP]."""
    ids = [vocabulary["[CLS]"]]
    for word in re.findall(r"\w+|[^\w\s]", text.lower()):
        start, pieces = 0, []
        while start < len(word):
            heads = (("##" if start else "") + word[start:end] for end in range(len(word), start, -1))
            piece = next((head for head in heads if head in vocabulary), None)
            if piece is None:
                pieces = ["[UNK]"]
                break
            pieces.append(piece)
            start += len(piece.removeprefix("##") if start else piece)
        ids += [vocabulary[piece] for piece in pieces]
    return ids[: limit - 1] + [vocabulary["[SEP]"]]


def forward(weights, config, ids, real):
    """Devlin et al. 2019: post-norm layers over word, position and type."""
    p, heads, eps = weights, config["num_attention_heads"], config["layer_norm_eps"]

    def linear(name, x):
        return F.linear(x, p[name + ".weight"], p[name + ".bias"])

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], p[name + ".weight"], p[name + ".bias"], eps)

    x = p["embeddings.word_embeddings.weight"][ids] + p["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = norm("embeddings.LayerNorm", x + p["embeddings.token_type_embeddings.weight"][0])
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}."
        q, k, v = (
            linear(f"{layer}attention.self.{part}", x).unflatten(-1, (heads, -1)).transpose(1, 2) for part in ("query", "key", "value")
        )
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~real[:, None, None], float("-inf"))
        context = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = norm(layer + "attention.output.LayerNorm", x + linear(layer + "attention.output.dense", context))
        x = norm(layer + "output.LayerNorm", x + linear(layer + "output.dense", F.gelu(linear(layer + "intermediate.dense", x))))
    return x


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output")
    parser.add_argument("--bert", type=pathlib.Path, help="folder of a real BERT")
    parser.add_argument("--seed", type=int, default=411)
    args = parser.parse_args()

    torch.set_num_threads(1)
    gen = torch.Generator().manual_seed(args.seed)
    tensors, texts = {}, []
    if args.bert:
        config = json.loads((args.bert / "config.json").read_text())
        weights = load_file(args.bert / "model.safetensors")
        weights = {name.removeprefix("bert."): value for name, value in weights.items() if value.is_floating_point()}
        lines = (args.bert / "vocab.txt").read_text(encoding="utf-8").splitlines()
        vocabulary = {line: index for index, line in enumerate(lines)}
        texts = [word_pieces(sentence, vocabulary, 128) for sentence in SENTENCES]
    else:
        config, weights = SMALL, small_bert(gen)
        texts = [torch.randint(config["vocab_size"], (length,), generator=gen).tolist() for length in (7, 3, 8)]
        tensors |= {f"param.{name}": value for name, value in weights.items()}
    lengths = torch.tensor([len(text) for text in texts])
    ids = torch.zeros(len(texts), -(-max(lengths) // 8) * 8, dtype=torch.long)
    for row, text in zip(ids, texts):
        row[: len(text)] = torch.tensor(text)
    real = torch.arange(ids.shape[1])[None] < lengths[:, None]
    hidden = forward({name: value.double() for name, value in weights.items()}, config, ids, real)
    hidden = torch.where(real[..., None], hidden, 0.0)
    sentences = F.normalize(hidden.sum(1) / lengths[:, None], dim=-1)
    tensors |= {"input.token_ids": ids.int(), "input.lengths": lengths.int(), "output.sentences": sentences.float()}
    if not args.bert:
        tensors["output.hidden"] = hidden.float()
    metadata = {
        "script": "tools/golden/make_bert_golden.py",
        "torch": torch.__version__,
        "config": json.dumps(config),
        "sentences": json.dumps(SENTENCES if args.bert else []),
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, args.output, metadata)
    print((sentences @ sentences.T).numpy().round(3))


if __name__ == "__main__":
    main()
