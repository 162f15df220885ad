"""Experts: low-rank adapters (LoRA) beside the frozen layers of a network."""

from evolvedirector.experts.expert import Expert, expert_of, fold_expert, put_expert
from evolvedirector.experts.gate import GatedLoRA
from evolvedirector.experts.lora import LoRA
from evolvedirector.experts.trained import Trained

__all__ = ["Expert", "GatedLoRA", "LoRA", "Trained", "expert_of", "fold_expert", "put_expert"]
