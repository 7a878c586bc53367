"""Writes tests/golden/metrics.json: what nltk, rouge-score, Levenshtein, scikit-learn and scipy make of small texts and cells.

Usage: python tools/golden/make_metric_golden.py (pip: nltk==3.10.4 rouge-score==0.1.2 Levenshtein==0.27.5 scikit-learn scipy)
"""

import json
import pathlib
import re

import Levenshtein
import nltk
import numpy
import scipy
import sklearn
from nltk.stem.porter import PorterStemmer
from nltk.translate.bleu_score import corpus_bleu
from nltk.translate.meteor_score import meteor_score
from rouge_score import rouge_scorer
from scipy.optimize import linear_sum_assignment
from scipy.stats import pearsonr, ttest_ind
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel
from sklearn.neighbors import KNeighborsClassifier

ROOT = pathlib.Path(__file__).resolve().parents[2]

EXAMPLES = """caresses ponies ties caress cats feed agreed plastered bled motoring sing conflated troubled sized hopping tanned falling hissing
fizzed failing filing happy sky skies relational conditional rational valency hesitancy digitizer conformably radically differently vilely
analogously vietnamization predication operator feudalism decisiveness hopefulness callousness formality sensitivity sensibility triplicate
formative formalize electricity electrical hopeful goodness revival allowance inference airliner gyroscopic adjustable defensible irritant
replacement adjustment dependent adoption homologou communism activate angularity homologous effective bowdlerize probate rate cease
controlling roll dying lying tying news innings outing cannings howe proceed exceed succeed died dies lie tie enjoy enjoyment spy fly tried
flies syzygy yes toy by biology geologically apology pathologies fulfilled fully beautifully ion lion adhesion as is a be ed used owing
naïve β-cells il10 cd4 th17 plasmablasts dendritic""".split()


class NoWordNet:
    """A WordNet that knows no word."""

    def synsets(self, word):
        return []


def words(text):
    return re.findall("[a-z0-9]+", text.lower())


def texts():
    types = json.loads((ROOT / "tests/data/cell_text.json").read_text())["cell_types"]
    full = [f"cell type: {t['name']}. {t['definition']}" for t in list(types.values())[:12]]
    predicted = full[:4] + full[5:9] + [full[8][:90], full[9].upper(), "", "A monocyte", full[11] + " " + full[11]]
    reference = full[:9] + [full[9], full[10], full[0], full[11]]
    # Also texts that nearly are the same, and words that only their stems have in common.
    predicted += ["lymphocytes expressing receptors", "the the the the the the the", "T cells of the T cell lineage"]
    reference += ["a lymphocyte that expresses a receptor", "the cat is on the mat", "a T cell of a lineage of T cells"]
    assert len(predicted) == len(reference)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    pairs = []
    for ours, theirs in zip(predicted, reference):
        rouge = scorer.score(theirs, ours)
        pairs.append(
            {
                "predicted": ours,
                "reference": theirs,
                "METEOR (exact, stem)": meteor_score([words(theirs)], words(ours), wordnet=NoWordNet()),
                "ROUGE-1": rouge["rouge1"].fmeasure,
                "ROUGE-2": rouge["rouge2"].fmeasure,
                "ROUGE-L": rouge["rougeL"].fmeasure,
                "Levenshtein ratio": Levenshtein.ratio(theirs, ours),
            }
        )
    bleu = lambda chosen, order: corpus_bleu(
        [[words(reference[at])] for at in chosen], [words(predicted[at]) for at in chosen], weights=(1 / order,) * order
    )
    every = range(len(predicted))
    # The last three share no four words: the value without smoothing is next to nothing.
    few = range(len(predicted) - 3, len(predicted) - 1)
    corpora = [{"pairs": list(chosen), "BLEU-2": bleu(chosen, 2), "BLEU-4": bleu(chosen, 4)} for chosen in [every, range(5), few]]
    stemmer = PorterStemmer()
    every_word = sorted(set(EXAMPLES) | {word for text in full for word in words(text)})
    return {"pairs": pairs, "corpora": corpora, "stems": {word: stemmer.stem(word) for word in every_word}}


def expression(random, labels, genes, shift):
    """Rounded values, most of them 0, with some genes raised for each label, and repeated cells."""
    values = random.gamma(0.5, 1.0, (len(labels), genes)) * (random.random((len(labels), genes)) < 0.4)
    for row, label in enumerate(labels):
        values[row, label * 20 : label * 20 + 15] += random.gamma(1.0, 0.6 + shift, 15)
    values = numpy.round(values, 2)
    values[1] = values[0]
    return values


def overlap(first, second, n):
    top = lambda x: set(numpy.argsort(-x, kind="stable")[:n])
    return len(top(first) & top(second)) / n


def by_label(generated, reference, function):
    return float(numpy.mean([function(generated, reference, label) for label in range(3)]))


def markers(values, labels, label):
    with numpy.errstate(all="ignore"):
        found = ttest_ind(values[labels == label], values[labels != label], equal_var=False).statistic
    return numpy.nan_to_num(found)


def wasserstein(first, second):
    """2-Wasserstein distance on a line, as an assignment of equal parts."""
    parts = numpy.lcm(len(first), len(second))
    cost = (numpy.repeat(first, parts // len(first))[:, None] - numpy.repeat(second, parts // len(second))[None, :]) ** 2
    rows, columns = linear_sum_assignment(cost)
    return float(numpy.sqrt(cost[rows, columns].mean()))


def cells():
    random = numpy.random.default_rng(11)
    genes = 80
    ours, theirs = numpy.arange(24) % 3, numpy.arange(33) % 3
    generated, reference = expression(random, ours, genes, 0.0), expression(random, theirs, genes, 0.3)
    reference[4] = reference[7]
    both = numpy.vstack([generated, reference])
    distances = euclidean_distances(both)
    gamma = 1 / (2 * numpy.median(distances[numpy.triu_indices(len(both), 1)]) ** 2)
    kernel = lambda a, b: rbf_kernel(a, b, gamma=gamma).mean()
    pick = lambda values, labels, label: values[labels == label]
    scores = {
        "MMD^2": kernel(generated, generated) + kernel(reference, reference) - 2 * kernel(generated, reference),
        "mean correlation": pearsonr(generated.mean(0), reference.mean(0)).statistic,
        "variance correlation": pearsonr(generated.var(0, ddof=1), reference.var(0, ddof=1)).statistic,
        "mean correlation by label": by_label(
            generated, reference, lambda a, b, l: pearsonr(pick(a, ours, l).mean(0), pick(b, theirs, l).mean(0)).statistic
        ),
        "variance correlation by label": by_label(
            generated,
            reference,
            lambda a, b, l: pearsonr(pick(a, ours, l).var(0, ddof=1), pick(b, theirs, l).var(0, ddof=1)).statistic,
        ),
        "differential genes": by_label(
            generated, reference, lambda a, b, l: overlap(markers(a, ours, l), markers(b, theirs, l), 50)
        ),
    }
    for n in [1, 3, 5, 7, 9]:
        scores[f"top-{n} genes of labels"] = by_label(
            generated, reference, lambda a, b, l: overlap(pick(a, ours, l).mean(0), pick(b, theirs, l).mean(0), n)
        )
        scores[f"top-{n} genes of cells"] = float(numpy.mean([overlap(generated[i], reference[i], n) for i in range(len(ours))]))
    votes = {}
    for k in [3, 5, 10, 25]:
        answers = KNeighborsClassifier(n_neighbors=k).fit(reference, theirs).predict(generated)
        votes[str(k)] = answers.tolist()
        scores[f"k-NN accuracy, k = {k}"] = float((answers == ours).mean())
    line = [numpy.round(random.normal(0, 1, 6), 2), numpy.round(random.normal(1, 2, 4), 2)]
    return {
        "genes": genes,
        "generated": {"labels": ours.tolist(), "values": generated.tolist()},
        "reference": {"labels": theirs.tolist(), "values": reference.tolist()},
        "votes": votes,
        "scores": {name: float(value) for name, value in scores.items()},
        "line": {"first": line[0].tolist(), "second": line[1].tolist(), "wasserstein": wasserstein(*line)},
    }


def main():
    versions = {
        "nltk": nltk.__version__,
        "rouge_score": "0.1.2",
        "Levenshtein": Levenshtein.__version__,
        "scikit-learn": sklearn.__version__,
        "scipy": scipy.__version__,
    }
    golden = {"made_by": "tools/golden/make_metric_golden.py", "versions": versions, "texts": texts(), "cells": cells()}
    (ROOT / "tests/golden/metrics.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
