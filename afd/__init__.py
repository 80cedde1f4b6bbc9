"""On-Policy Adversarial Flow Distillation (arXiv:2605.26105): the method. Knows no service."""
