#!/usr/bin/env python3
"""Golden file of generation: what Hugging Face's `generate` writes with the model of `language_tiny.safetensors`.

    python make_generation_golden.py tests/golden/language_tiny.safetensors > tests/golden/generation.json

Needs `torch`, `safetensors` and `transformers` 5.23.0. The untied model runs in f64 on the CPU. Each entry of `cases` holds the settings under
Hugging Face's names, and for each prompt the new tokens (up to and with the end) and, with beams, the sequence's score.
"""

import json
import sys

import torch
import transformers
from safetensors import safe_open

EOS = [7, 11]
PROMPTS = [[1, 5, 9, 2, 40], [3, 3, 17], [50, 12, 30, 31, 8, 4, 22, 19], [6]]
CASES = [
    {"num_beams": 1, "max_new_tokens": 24},
    {"num_beams": 1, "max_new_tokens": 24, "repetition_penalty": 1.6},
    {"num_beams": 1, "max_new_tokens": 24, "min_new_tokens": 16},
    {"num_beams": 5, "max_new_tokens": 24},
    {"num_beams": 5, "max_new_tokens": 24, "min_new_tokens": 12},
    {"num_beams": 3, "max_new_tokens": 16, "length_penalty": 0.0},
    {"num_beams": 4, "max_new_tokens": 20, "length_penalty": 2.0, "min_new_tokens": 3},
    {"num_beams": 4, "max_new_tokens": 12, "length_penalty": -1.0, "repetition_penalty": 1.3},
    {"num_beams": 2, "max_new_tokens": 1},
]


def model(path):
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        weights = {name.removeprefix("param."): file.get_tensor(name).double() for name in file.keys() if name.startswith("param.")}
    config = {key: value for key, value in config.items() if key not in ("batch", "seq_len", "model_type")}
    config = transformers.LlamaConfig(**config, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None, pad_token_id=0)
    llama = transformers.LlamaForCausalLM(config).double().eval()
    llama.load_state_dict(weights)
    return llama


def main():
    llama = model(sys.argv[1])
    cases = []
    for settings in CASES:
        answers = []
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            with torch.no_grad():
                out = llama.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    eos_token_id=EOS,
                    pad_token_id=0,
                    return_dict_in_generate=True,
                    output_scores=True,
                    **settings,
                )
            new = out.sequences[0, len(prompt) :].tolist()
            end = next((place + 1 for place, token in enumerate(new) if token in EOS), len(new))
            answer = {"tokens": new[:end]}
            if settings["num_beams"] > 1:
                answer["score"] = float(out.sequences_scores[0])
            answers.append(answer)
        cases.append({"settings": settings, "answers": answers})
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    json.dump({"script": "tools/golden/make_generation_golden.py", **versions, "eos": EOS, "prompts": PROMPTS, "cases": cases}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
