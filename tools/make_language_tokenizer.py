#!/usr/bin/env python3
"""Trains a small byte-level BPE tokenizer on the texts of cell types.

    tools/make_language_tokenizer.py tests/data/cell_text.json --vocab-size 1536 > tests/data/language_tokenizer.json

The texts are the names, synonyms and definitions of the file ({"cell_types": {id: {"name", "synonyms", "definition"}}}) in the sentences
that descriptions and questions are made of, with the usual words of `obs`. Any other text is spelled by bytes. Special tokens come first:
<unk> 0, <s> 1, </s> 2. Needs tokenizers 0.22.1 (`pip install tokenizers==0.22.1`).
"""

import argparse
import json
import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<unk>", "<s>", "</s>"]
SENTENCES = [
    "cell type: {name}. {definition}",
    "A single cell of the type {name}, also known as {synonym}. {definition}",
    "Transcriptome of one {name} taken from {tissue} of a {sex} donor at the {stage}. {definition}",
    "{definition} This describes the {name}, which is also called {synonym}.",
    "Tissue: {tissue}. Sex: {sex}. Development stage: {stage}. Condition: {condition}. Cell type: {name}.",
    "Among the cells of the {tissue}, this one was identified as {name} ({synonym}). {definition}",
    "Cell identity: {name}; synonyms: {synonym}; condition: {condition}.",
    "scRNA-seq of a {name} from {tissue}, {condition}.",
    "Question: what type of cell is this? Answer: this cell is a {name}. Which genes does it express? Which markers does it have?",
    "a {name}, {condition}",
]
TISSUES = ["blood", "bone marrow", "lung", "heart", "brain", "kidney", "pancreas", "liver", "intestine", "skin", "spleen", "lymph node"]
SEXES = ["female", "male", "unknown"]
STAGES = ["adult stage", "embryonic stage", "fetal stage", "child stage", "young adult stage", "aged stage"]
CONDITIONS = ["normal", "healthy", "disease", "control", "stimulated", "unstimulated", "IFN-beta", "treated", "untreated", "COVID-19"]


def texts(types):
    for number, term in enumerate(types):
        for turn, sentence in enumerate(SENTENCES):
            pick = lambda words: words[(number + turn) % len(words)]
            yield sentence.format(
                name=term["name"],
                definition=term.get("definition") or "",
                synonym=pick(term["synonyms"] or [term["name"]]),
                tissue=pick(TISSUES),
                sex=pick(SEXES),
                stage=pick(STAGES),
                condition=pick(CONDITIONS),
            )


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("texts")
    arguments.add_argument("--vocab-size", type=int, default=1536)
    arguments = arguments.parse_args()

    with open(arguments.texts, encoding="utf-8") as file:
        types = json.load(file)["cell_types"].values()
    tokenizer = Tokenizer(models.BPE())
    digits, letters = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=arguments.vocab_size,
        min_frequency=2,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(types), trainer)
    json.dump(json.loads(tokenizer.to_str()), sys.stdout, ensure_ascii=False, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
