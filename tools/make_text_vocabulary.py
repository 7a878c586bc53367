#!/usr/bin/env python3
"""Cuts a BERT vocabulary down to what texts about cell types need.

    tools/make_text_vocabulary.py vocab.txt ontology.json --words 4000 > tests/data/text_vocab.txt

Kept, in the order of the original: the special tokens; every piece that WordPiece uses for a name, synonym or definition of the
ontology ({id: {"name", "synonyms", "definition"}}), so that these texts are cut exactly as by the whole vocabulary; every piece of one
printable ASCII character, so that any other word can be spelled; the first `--words` whole words of three or more letters, which stand in
order of frequency.
"""

import argparse
import json
import unicodedata

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LONGEST_WORD = 100


def is_punctuation(letter):
    return (letter.isascii() and letter.isprintable() and not letter.isalnum()) or unicodedata.category(letter).startswith("P")


def words(text):
    """BERT's basic tokens: lower case, without accents, punctuation apart."""
    text = unicodedata.normalize("NFD", text.lower())
    text = "".join(letter for letter in text if unicodedata.category(letter) != "Mn")
    return "".join(f" {letter} " if is_punctuation(letter) else letter for letter in text).split()


def pieces(word, vocabulary):
    """The longest piece first, again and again; [UNK] for a word that this does not spell."""
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if prefix + word[start:end] in vocabulary), None)
        if end is None or len(word) > LONGEST_WORD:
            return ["[UNK]"]
        found.append(prefix + word[start:end])
        start = end
    return found


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("vocabulary")
    arguments.add_argument("ontology")
    arguments.add_argument("--words", type=int, default=4000)
    arguments = arguments.parse_args()

    with open(arguments.vocabulary, encoding="utf-8") as file:
        tokens = [line.rstrip("\n") for line in file]
    with open(arguments.ontology, encoding="utf-8") as file:
        terms = json.load(file).values()

    vocabulary, kept = set(tokens), set(SPECIAL)
    for term in terms:
        for text in [term["name"], term.get("definition") or "", *term["synonyms"]]:
            for word in words(text):
                kept.update(pieces(word, vocabulary))
    kept.update(token for token in tokens if len(token.removeprefix("##")) == 1 and token[-1].isascii())
    frequent = [token for token in tokens if token.isascii() and token.isalpha() and len(token) >= 3]
    kept.update(frequent[: arguments.words])
    print("\n".join(token for token in tokens if token in kept))


if __name__ == "__main__":
    main()
