"""The stages of the ranking pipeline, in the order in which they run. A new one is one line here."""

from serve.recommend.ranking.candidate_stages import CandidateStage, ScorerStage
from serve.recommend.ranking.list_stages import (
    CalibrationStage,
    DiversityStage,
    ExplorationStage,
    LongTailStage,
    NewItemStage,
)
from serve.recommend.ranking.ranking_stage import RankingStage
from serve.recommend.ranking.rule_stages import ArrangementStage, BoostStage

STAGES: list[RankingStage] = []


def register(stage: RankingStage, before: str = "") -> None:
    """Add a stage before the named one, or behind all others."""
    names = [each.name for each in STAGES]
    if stage.name in names:
        raise ValueError(f"two ranking stages are named {stage.name!r}")
    STAGES.insert(names.index(before) if before else len(STAGES), stage)


register(CandidateStage())
register(ScorerStage())
register(BoostStage())
register(ExplorationStage())
register(DiversityStage())
register(CalibrationStage())
register(LongTailStage())
register(NewItemStage())
register(ArrangementStage())
