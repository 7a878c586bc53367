#!/usr/bin/env python3
"""Opens a language model and an adapter with PEFT, and prints the logits after each sequence as a flat JSON list.

    python open_adapter.py MODEL_FOLDER ADAPTER_FOLDER '[[token ids], ..]'

Needs `torch`, `transformers` and `peft`. The token table grows by the tokens that the adapter brings.
"""

import json
import sys

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM

base, adapter, sequences = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
rows = PeftConfig.from_pretrained(adapter).trainable_token_indices or {}
new = [token + 1 for tokens in rows.values() for token in tokens]
if new:
    model.resize_token_embeddings(max(new), mean_resizing=False)
model = PeftModel.from_pretrained(model, adapter).eval()
with torch.no_grad():
    logits = [model(input_ids=torch.tensor([ids])).logits[0, -1] for ids in sequences]
print(json.dumps(torch.cat(logits).tolist()))
