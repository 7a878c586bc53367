#!/usr/bin/env python3
"""Golden files of the language model's adapters: logits, losses and the gradient of every adapter matrix and new token row, by PEFT.

    python make_adapter_golden.py tests/golden

Needs `torch`, `transformers` and `peft`. The base model is that of `make_language_golden.py`, read from its golden file, resized by three
new tokens. Everything is computed in f64 from parameters that are exactly representable in f32, and stored as f32 (ids as i32).

`adapter_tiny.safetensors`, for each variant `qv_tied` (r 4, alpha 12, queries and values, tied head) and `all_untied` (r 3, alpha 7, every
projection, untied head):
    adapter.VARIANT.NAME    what `save_pretrained` writes, B and new rows included, which are drawn here
    grad.VARIANT.NAME       gradient of the loss
    logits.VARIANT          [sequences, vocabulary] after each sequence; loss.VARIANT
    config.VARIANT          (metadata) PEFT's adapter_config.json
Loss: cross-entropy of labels[1:] on logits[:-1], mean over the labels that are not -100. Sequences are padded at the end.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

import peft
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

LENGTHS, SEED, NEW = [11, 6, 1], 21, 3
SEQ = max(LENGTHS)
VARIANTS = {
    "qv_tied": {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj"]},
    "all_untied": {
        "r": 3,
        "lora_alpha": 7,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    },
}


def base_model(folder, tied):
    """Transformers' Llama with the parameters of the language model's golden file."""
    path = Path(folder) / "language_tiny.safetensors"
    with safe_open(path, "pt") as file:
        sizes = json.loads(file.metadata()["config"])
    for key in ("batch", "seq_len", "model_type"):
        del sizes[key]
    config = transformers.LlamaConfig(**sizes, tie_word_embeddings=tied, attn_implementation="eager")
    model = transformers.LlamaForCausalLM(config).double()
    params = {name.removeprefix("param."): value.double() for name, value in load_file(path).items() if name.startswith("param.")}
    if tied:
        params["lm_head.weight"] = params["model.embed_tokens.weight"]
    model.load_state_dict(params)
    model.resize_token_embeddings(sizes["vocab_size"] + NEW, mean_resizing=False)
    return model, sizes["vocab_size"]


def draw(model, gen):
    """Every trained parameter anew: large enough that adapters matter, small enough that f32 keeps five digits of every gradient."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                scale = 0.3 if "tokens_delta" in name else 0.1
                parameter.copy_((torch.randn(parameter.shape, generator=gen, dtype=torch.float64) * scale).float().double())


def main():
    folder, gen = sys.argv[1], torch.Generator().manual_seed(SEED)
    warnings.simplefilter("ignore")
    tensors, metadata = {}, {"script": "tools/golden/make_adapter_golden.py", "seed": str(SEED)}
    for variant, settings in VARIANTS.items():
        tied = variant.endswith("_tied")
        model, vocabulary = base_model(folder, tied)
        new = list(range(vocabulary, vocabulary + NEW))
        rows = {"embed_tokens": new} if tied else {"embed_tokens": new, "lm_head": new}
        config = peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, trainable_token_indices=rows, **settings)
        model = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
        draw(model, gen)

        if "input.token_ids" not in tensors:
            ids = torch.randint(vocabulary + NEW, (len(LENGTHS), SEQ), generator=gen)
            # The first and the last new token, as input and as label; the second is never seen.
            ids[ids == vocabulary + 1] = 0
            ids[0, 2], ids[0, 5], ids[1, 3], ids[2, 0] = vocabulary, vocabulary + 2, vocabulary + 2, vocabulary
            labels = torch.where(torch.rand(ids.shape, generator=gen) < 0.7, ids, -100)
            labels[0, 5] = vocabulary + 2
            tensors |= {"input.token_ids": ids, "input.labels": labels, "input.lengths": torch.tensor(LENGTHS)}
        ids, labels = tensors["input.token_ids"], tensors["input.labels"]

        logits = [model(input_ids=ids[item : item + 1, :length]).logits[0] for item, length in enumerate(LENGTHS)]
        pairs = [(l[:-1], labels[item, 1:length]) for item, (l, length) in enumerate(zip(logits, LENGTHS))]
        scores, targets = torch.cat([l for l, _ in pairs]), torch.cat([t for _, t in pairs])
        loss = torch.nn.functional.cross_entropy(scores, targets, ignore_index=-100)
        loss.backward()
        tensors[f"logits.{variant}"] = torch.stack([l[-1].detach() for l in logits])
        tensors[f"loss.{variant}"] = loss.detach().view(1)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

        with tempfile.TemporaryDirectory() as saved:
            model.save_pretrained(saved)
            adapter = load_file(Path(saved) / "adapter_model.safetensors")
            metadata[f"config.{variant}"] = (Path(saved) / "adapter_config.json").read_text()
        for name, value in adapter.items():
            tensors[f"adapter.{variant}.{name}"] = value
        for name, gradient in gradients.items():
            tensors[f"grad.{variant}.{name.replace('.default', '')}"] = gradient
        stored = {name.replace(".default", "") for name in gradients}
        assert stored == set(adapter), stored ^ set(adapter)
        print(f"{variant:12s}{loss.item():.9f}")

    metadata |= {"torch": torch.__version__, "peft": peft.__version__, "transformers": transformers.__version__}
    stored = {k: (v.float() if v.is_floating_point() else v.int()).contiguous().clone() for k, v in tensors.items()}
    save_file(stored, Path(folder) / "adapter_tiny.safetensors", metadata)


if __name__ == "__main__":
    main()
