"""Discriminator losses: Bradley-Terry on same-prompt pairs, an unpaired alternative, and R1."""

import torch
from torch import Tensor
from torch.nn.functional import softplus

from afd.latents import Scores

Metrics = dict[str, Tensor]


def bradley_terry(teacher_scores: Scores, student_scores: Scores) -> tuple[Tensor, Metrics]:
    """-log sigmoid(teacher - student), mean over pairs of one prompt (GAD, arXiv:2511.10643).

    At the optimum the score estimates log pi_teacher / pi_student up to a term of the prompt alone,
    which the advantage's group mean removes.
    """
    margin = teacher_scores - student_scores
    loss = softplus(-margin).mean()
    return loss, _pair_metrics(loss, margin)


def binary_cross_entropy(teacher_scores: Scores, student_scores: Scores) -> tuple[Tensor, Metrics]:
    """Return the unpaired GAN loss (arXiv:1406.2661): teacher 1, student 0; the "bce" arm."""
    loss = (softplus(-teacher_scores).mean() + softplus(student_scores).mean()) / 2
    return loss, _pair_metrics(loss, teacher_scores - student_scores)


def generator_loss(student_scores: Scores, teacher_scores: Scores) -> tuple[Tensor, Metrics]:
    """Return the student's side of the pair loss, the "gan" arm: -log sigmoid(student - teacher).

    The gradient runs through the scores into the clips; the teacher's scores are given.
    """
    margin = teacher_scores.detach() - student_scores
    loss = softplus(margin).mean()
    return loss, _pair_metrics(loss, margin)


def r1_penalty(scores: Scores, seen: Tensor) -> Tensor:
    """E |d score / d seen|^2, summed over a clip's values (Mescheder et al., arXiv:1801.04406).

    Differentiable in the weights. `seen` must require gradient and be the very tensor the
    scores were computed from.
    """
    (gradient,) = torch.autograd.grad(scores.sum(), seen, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()


def _pair_metrics(loss: Tensor, margin: Tensor) -> Metrics:
    margin = margin.detach()
    return {
        "loss": loss.detach(),
        "margin": margin.mean(),
        "pair_accuracy": (margin > 0).float().mean(),
    }
