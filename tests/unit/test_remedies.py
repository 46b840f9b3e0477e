"""What a report says to do about what is suspect."""

import inspect

from soft_prompts.report.remedies import REMEDIES, remedies
from soft_prompts.results import curve, exhaustion, summary


def test_each_flag_has_its_own_sentence_and_those_of_one_kind_share_it() -> None:
    flags = [
        "one seed: intervals over documents only",
        "P=1 worse than P=0",
        "P=4 worse than bigram",
        "P=16 worse than unigram",
        "P=1 other documents",
        "P=4 2 seeds on other documents left out",
        "P=1 seeds disagree (2.000 to 3.000)",
        "P=1 1 of 3 random targets have as low a loss",
        "P=16 search not exhausted: twice the steps gained 0.100",
    ]
    said = remedies(flags)
    assert len(said) == len({sentence for _, sentence in said}) == len(REMEDIES) == len(flags) - 1
    assert ("P=4 worse than bigram; P=16 worse than unigram", REMEDIES["worse than "]) in said
    assert ("P=1 worse than P=0", REMEDIES["worse than P="]) in said
    assert ("P=1 other documents", REMEDIES["other documents"]) in said


def test_the_flags_that_have_a_sentence_are_those_that_results_make() -> None:
    code = "".join(inspect.getsource(module) for module in (curve, exhaustion, summary))
    assert [held for held in REMEDIES if held not in code] == []


def test_a_flag_without_a_sentence_stands_for_itself() -> None:
    assert remedies(["something new"]) == [("something new", "")]
