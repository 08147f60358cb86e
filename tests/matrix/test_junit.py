"""JUnit XML, read back by a library that continuous integration services use too."""

from __future__ import annotations

import pytest
from junitparser import Error, Failure, JUnitXml, Skipped

from edgellm_core.matrix import parse
from edgellm_core.matrix.errors import JunitFileError
from edgellm_core.matrix.junit import junit_xml, write_junit
from edgellm_core.matrix.run import CaseResult
from edgellm_core.matrix.selection import MatrixCase


def result(family, entry, outcome, seconds=0.0, message="", details=""):
    case = MatrixCase(family=family, tier="l0", entry=parse(entry))
    return CaseResult(case=case, outcome=outcome, seconds=seconds, message=message, details=details)


RESULTS = [
    result("llama", "tiny-fp16-mxsl64", "passed", 1.25),
    result("llama", "tiny-fp16-lora", "skipped", message="Not yet: LoRA adapters (lora)."),
    result("qwen2", "tiny-fp16-mxsl64", "failed", 2.5, "differs: 3 > 2 & <bad>"),
    result("qwen2", "tiny-fp32", "crashed", 0.5, "KeyError: 'x'", "Traceback …\n  KeyError: 'x'"),
    result("qwen3", "tiny-fp16", "xfailed", message="Expected to fail (why), and failed: no."),
    result("qwen3", "tiny-fp32", "xpassed", message="Expected to fail (why), and passed."),
]


@pytest.fixture
def read(tmp_path):
    """Return a function that writes results and reads them back."""

    def through_the_file(results):
        path = tmp_path / "reports" / "junit.xml"
        write_junit(path, results)
        return JUnitXml.fromfile(str(path))

    return through_the_file


def test_totals_are_those_of_the_results(read):
    suites = read(RESULTS)
    for counted in (suites, *suites):
        assert (counted.tests, counted.failures, counted.errors, counted.skipped) == (6, 2, 1, 2)
        assert counted.time == pytest.approx(4.25)


def test_a_case_has_the_family_as_its_class_and_the_entry_as_its_name(read):
    (suite,) = read(RESULTS)
    assert suite.name == "edgellm matrix"
    assert [(case.classname, case.name, case.time) for case in suite] == [
        (each.case.family, str(each.case.entry), each.seconds) for each in RESULTS
    ]


def test_a_case_says_what_became_of_it_and_why(read):
    (suite,) = read(RESULTS)
    said = [[(type(part), part.type, part.message) for part in case.result] for case in suite]
    assert said == [
        [],
        [(Skipped, "skipped", RESULTS[1].message)],
        [(Failure, "refused", RESULTS[2].message)],
        [(Error, "crashed", RESULTS[3].message)],
        [(Skipped, "xfailed", RESULTS[4].message)],
        [(Failure, "xpassed", RESULTS[5].message)],
    ]
    assert [case.result[0].text for case in suite if case.name == "tiny-fp32"] == [RESULTS[3].details, None]


def test_characters_that_xml_has_not_are_replaced(read):
    message = "a\x00b\x1b[1mc\x0bd\ufffee\ud800f 😀 é"
    (suite,) = read([result("llama", "tiny-fp16", "crashed", message=message, details=message)])
    ((error,),) = (case.result for case in suite)
    assert error.message == error.text == "a\ufffdb\ufffd[1mc\ufffdd\ufffde\ufffdf 😀 é"


def test_equal_results_give_equal_bytes():
    assert junit_xml(RESULTS) == junit_xml(list(RESULTS))


def test_a_file_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JunitFileError, match=r"Can't write --junit '.*junit.xml': "):
        write_junit(tmp_path / "file" / "junit.xml", RESULTS)
