"""Verdicts as pure functions of looks."""

from __future__ import annotations

from evolvedirector.records import Look, Verdict

MIN_COVERED_MASS = 0.5
"""Below this share of probability on readable answers the model wanted to say something else: invalid."""


def verdict_of_pair(
    student_first: Look | None,
    teacher_first: Look | None,
    tie_margin: float = 0.0,
    min_covered_mass: float = MIN_COVERED_MASS,
) -> Verdict:
    """Judge student against teacher from one look or from one in each order.

    With both orders the margin is the mean preference for the student minus 1/2; orders that disagree are a tie
    (a position-biased judge prefers a place, not an image).

    Args:
        student_first: The look in which the student's image came first; None if not taken.
        teacher_first: The look in which the teacher's image came first; None if not taken.
        tie_margin: Distance from 1/2 up to which a preference is a tie.
        min_covered_mass: Probability mass below which a look cannot be read.
    """
    prefers_student = []
    for look, student_is_first in ((student_first, True), (teacher_first, False)):
        if look is not None:
            if not (look.covered_mass >= min_covered_mass and 0.0 <= look.probability <= 1.0):
                return "invalid"
            prefers_student.append(look.probability if student_is_first else 1.0 - look.probability)
    if not prefers_student:
        return "invalid"
    margins = [preference - 0.5 for preference in prefers_student]
    if min(margins) < 0 < max(margins):
        return "tie"
    margin = sum(margins) / len(margins)
    if abs(margin) <= tie_margin:
        return "tie"
    return "student" if margin > 0 else "teacher"


def verdict_of_check(look: Look | None, threshold: float = 0.5, min_covered_mass: float = MIN_COVERED_MASS) -> Verdict:
    """Judge one image against its prompt: `student` if the image shows it, `teacher` if a teacher is needed."""
    if look is None or not (look.covered_mass >= min_covered_mass and 0.0 <= look.probability <= 1.0):
        return "invalid"
    return "student" if look.probability >= threshold else "teacher"
