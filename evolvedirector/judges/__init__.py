"""Judges that compare images and check them against prompts, and how far each is trusted."""

from evolvedirector.judges.gold import GoldSource, check_gold
from evolvedirector.judges.gold_file import GoldFile
from evolvedirector.judges.health import JudgeHealth
from evolvedirector.judges.health_report import HealthReport
from evolvedirector.judges.judge import Judge

__all__ = ["GoldFile", "GoldSource", "HealthReport", "Judge", "JudgeHealth", "check_gold"]
