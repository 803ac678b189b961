"""The divergences in plain numpy and float64, straight from their papers' formulas.

What the tests judge by. `benchmarks/oracle.py` is a second oracle, on purpose: it has
gradients derived by hand, which accuracy is measured against, and shares no line with
this one. `tests/test_loss_benchmark.py` compares the two, so that a formula which was
misread once does not pass.
"""

import numpy as np


def softmax(logits):
    logits = np.float64(logits)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def cross_entropy(logits, labels):
    chosen = np.take_along_axis(softmax(logits), np.asarray(labels)[..., None], -1)
    return -np.log(chosen[..., 0])


def kl(p, q):
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0).sum(-1)


def jsd(p, q, beta):
    if beta in (0, 1):
        return kl(q, p) if beta else kl(p, q)
    mixture = beta * p + (1 - beta) * q
    return beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)


def alpha_beta(p, q, a, b):
    if b == 0:  # l'Hopital's rule
        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.where(p > 0, p**a * a * (np.log(p) - np.log(q)), 0.0)
        return (log - p**a + q**a).sum(-1) / a**2
    if a == 0:
        return alpha_beta(q, p, b, 0)
    c = a + b
    terms = p**a * q**b - a / c * p**c - b / c * q**c
    return -terms.sum(-1) / (a * b)


def adaptive_kl(p, q, mu):
    """By sorting: likeliest ids of p until their mass reaches mu."""
    order = np.argsort(-p, axis=-1, kind="stable")
    before = np.cumsum(np.take_along_axis(p, order, -1), -1)
    before = np.concatenate([np.zeros_like(before[..., :1]), before[..., :-1]], -1)
    head = np.zeros(p.shape, bool)
    np.put_along_axis(head, order, before < mu, -1)
    gap = np.abs(p - q)
    total = gap.sum(-1)
    share = np.where(total > 0, (gap * head).sum(-1) / np.where(total > 0, total, 1), 0)
    return share * kl(p, q) + (1 - share) * kl(q, p)


def taid(p, q, t):
    with np.errstate(divide="ignore"):
        logs = [np.where(w > 0, w * np.log(x), 0.0) for w, x in ((1 - t, q), (t, p))]
    return kl(softmax(sum(logs)), q)


def decoupled_kd(p, q, labels, a, b):
    hot = np.arange(p.shape[-1]) == np.asarray(labels)[..., None]

    def split(x):
        target = (x * hot).sum(-1)
        rest = np.where(hot, 0.0, x).sum(-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            others = np.where(hot, 0.0, x) / rest[..., None]
        return np.stack([target, rest], -1), others

    (p_binary, p_others), (q_binary, q_others) = split(p), split(q)
    others = np.where(p_binary[..., 1] > 0, kl(p_others, q_others), 0.0)
    return a * kl(p_binary, q_binary) + b * others


def logit_mse(p, q):
    counted = (p > 0) & (q > 0)
    number = counted.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.where(counted, np.log(q) - np.log(p), 0.0)
    mean = difference.sum(-1, keepdims=True) / number
    squares = np.where(counted, (difference - mean) ** 2, 0.0)
    return squares.sum(-1) / (2 * number[..., 0])


ORACLES = {
    "forward_kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "jsd": jsd,
    "skew_forward_kl": lambda p, q, skew: kl(p, skew * p + (1 - skew) * q),
    "skew_reverse_kl": lambda p, q, skew: kl(q, skew * q + (1 - skew) * p),
    "total_variation": lambda p, q: np.abs(p - q).sum(-1) / 2,
    "hellinger": lambda p, q: np.square(np.sqrt(p) - np.sqrt(q)).sum(-1) / 2,
    "alpha_beta": alpha_beta,
    "adaptive_kl": adaptive_kl,
    "taid": taid,
    "decoupled_kd": decoupled_kd,
    "logit_mse": logit_mse,
}


def oracle(student, teacher, kind, temperature=1.0, labels=None, **parameters):
    """Returns the divergence of logits per token, in float64."""
    p, q = (softmax(np.float64(x) / temperature) for x in (teacher, student))
    if kind == "decoupled_kd":
        parameters["labels"] = labels
    return ORACLES[kind](p, q, **parameters)
