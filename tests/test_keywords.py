"""Keywords: checks 33 and 34, the vocabularies, and what a model may answer."""

import json
import tomllib
from pathlib import Path

import pytest

import cmbagent
from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.errors import BadReplyError, ConfigurationError
from cmbagent.keywords import vocabulary
from cmbagent.keywords.result import Keywords, LinkedKeywords
from cmbagent.testing import ModelServer
from scripted import KeyManager

LEVELS = [
    {"keywords": ["ASTRONOMY & ASTROPHYSICS", "PHYSICS"]},
    {"keywords": ["Cosmology and cosmogony", "Statistics", "Optics"]},
    {"keywords": ["Galaxies", "Time series", "Quasars"]},
    {"keywords": ["Galaxies", "Cosmology and cosmogony", "Time series"]},
]
DATA = Path(vocabulary.__file__).parent / "data"
ROOT = Path(__file__).parents[1]
ADDRESSES = {
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
}


def ask(script, function=cmbagent.get_keywords, *args, **kwargs):
    server = ModelServer(script)
    with server, server.environment():
        return function(*args, **{"api_keys": KeyManager(), **kwargs}), server


def test_check_33_unesco_serves_as_list_and_as_mapping(tmp_path):
    found, server = ask(
        {"list_keywords_finder": LEVELS},
        cmbagent.get_keywords,
        "The ages of galaxies",
        n_keywords=2,
        kw_type="unesco",
        work_dir=tmp_path,
    )
    assert found == ["Galaxies", "Cosmology and cosmogony"]
    assert isinstance(found, list) and len(found) == 2 and found[0] == "Galaxies"
    assert ", ".join(found.keys()) == "Galaxies, Cosmology and cosmogony"
    assert dict(found.items()) == {"Galaxies": "", "Cosmology and cosmogony": ""}
    assert "\n".join(f"- {keyword}" for keyword in found) == "- Galaxies\n- Cosmology and cosmogony"
    assert json.dumps(found) == '["Galaxies", "Cosmology and cosmogony"]'
    server.assert_calls(["list_keywords_finder"] * 4)


def test_unesco_goes_down_level_by_level_and_always_looks_into_mathematics(tmp_path):
    _, server = ask({"list_keywords_finder": LEVELS}, cmbagent.get_keywords, "t", 3, tmp_path)
    fields, disciplines, areas, union = server.prompts("list_keywords_finder")
    assert "- CHEMISTRY" in fields and "Cosmology and cosmogony" not in fields
    assert "MATHEMATICS\n- Algebra" in disciplines and "PHYSICS\n" in disciplines
    assert "CHEMISTRY" not in disciplines and "Algebraic geometry" not in disciplines
    assert "Statistics\n- Analytical statistics" in areas and "Cosmology and cosmogony\n- Binary" in areas
    for name in ("ASTRONOMY & ASTROPHYSICS", "MATHEMATICS", "Optics", "Quasars", "Time series"):
        assert f"- {name}\n" in union
    assert "Algebra\n" not in union and "Choose at most 3." in union
    # Unchanging text first, the text last: providers charge less for what they have read before.
    assert all(prompt.index("Vocabulary:") < prompt.index("The text:") for prompt in (fields, union))


def test_no_more_below_a_heading_than_the_nomenclature_allows(tmp_path):
    greedy = {"keywords": list(vocabulary.below(["21"]).values())}
    levels = [LEVELS[0], greedy, {"keywords": []}, {"keywords": ["PHYSICS"]}]
    found, server = ask({"list_keywords_finder": levels}, cmbagent.get_keywords, "t", 1, tmp_path)
    assert found == ["PHYSICS"]
    areas = server.prompts("list_keywords_finder")[2]
    shown = [name for name in greedy["keywords"] if f"\n{name}\n- " in areas]
    assert shown == greedy["keywords"][: len(shown)] and 1 <= len(shown) <= 4


def test_check_34_aaai_is_a_list_and_aas_a_dict_of_addresses(tmp_path):
    aaai, _ = ask(
        {"aaai_keywords_finder": {"keywords": ["ML: bayesian learning", "ML: Bayesian Learning"]}},
        cmbagent.get_keywords,
        "t",
        n_keywords=2,
        kw_type="aaai",
        work_dir=tmp_path,
    )
    assert aaai == ["ML: Bayesian Learning"]
    answer = {"keywords": ["hubble constant", "Cosmology", "Quasars"]}
    aas, _ = ask(
        {"aas_keyword_finder": answer}, cmbagent.get_keywords, "t", 2, kw_type="aas", work_dir=tmp_path
    )
    assert isinstance(aas, dict)
    assert aas == {
        "Hubble constant": "http://astrothesaurus.org/uat/758",
        "Cosmology": "http://astrothesaurus.org/uat/343",
    }
    # As callers show them, and by place.
    assert next(f"[{k}]({aas[k]})" for k in aas) == "[Hubble constant](http://astrothesaurus.org/uat/758)"
    assert (aas[0], aas[-1], aas[:1]) == ("Hubble constant", "Cosmology", ["Hubble constant"])


def test_only_words_of_the_vocabulary_are_returned(tmp_path):
    script = {
        "aas_keyword_finder": [{"keywords": ["Made up", "Also"]}, {"keywords": ["cosmology.", "Cosmology"]}]
    }
    found, server = ask(script, cmbagent.get_aas_keywords, "t", 5, tmp_path)
    assert list(found) == ["Cosmology"]
    assert "leave them out: Made up, Also" in server.prompts("aas_keyword_finder")[1]
    nothing, server = ask(
        {"aas_keyword_finder": {"keywords": []}}, cmbagent.get_aas_keywords, "t", 5, tmp_path
    )
    assert (nothing, len(server.calls)) == ({}, 1)


def test_an_answer_without_keywords_is_told(tmp_path):
    with pytest.raises(BadReplyError, match="without a list of keywords"):
        ask({"aas_keyword_finder": {"words": ["Cosmology"]}}, cmbagent.get_aas_keywords, "t", 5, tmp_path)


def test_a_vocabulary_of_ones_own(tmp_path):
    script = {"list_keywords_finder": {"keywords": ["dust", "gas", "stars"]}}
    found, _ = ask(script, cmbagent.get_keywords_from_string, "t", "Gas, Dust, Ice", 2, tmp_path)
    assert found == ["Dust", "Gas"]
    lines, _ = ask(script, cmbagent.get_keywords_from_string, "t", "Gas, cold\nDust", 2, tmp_path)
    assert lines == ["Dust"]
    with pytest.raises(ConfigurationError, match="holds no keywords"):
        cmbagent.get_keywords_from_string("t", " ,", 2, tmp_path)


def test_mistakes_are_named_before_any_call(tmp_path):
    with pytest.raises(ValueError, match=r"kw_type='unsco' is no vocabulary.*Did you mean 'unesco'"):
        cmbagent.get_keywords("t", kw_type="unsco", work_dir=tmp_path)
    with pytest.raises(ValueError, match="n_keywords=0: expected 1 or more"):
        cmbagent.get_keywords("t", 0, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_reports_and_callbacks_say_what_it_cost(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    heard = []
    with pytest.warns(UserWarning, match="ignores temperature"):
        _, server = ask(
            {"list_keywords_finder": LEVELS},
            cmbagent.get_keywords,
            "t",
            work_dir=tmp_path,
            model="gpt-4o",
            callbacks=WorkflowCallbacks(on_cost_update=heard.append),
            temperature=0,
        )
    assert {call.model for call in server.calls} == {"gpt-4o"}
    (report,) = (tmp_path / "cost").glob("cost_report_*.json")
    rows = json.loads(report.read_text())
    assert [row["Agent"] for row in rows] == ["list keywords finder", "Total"]
    assert rows[0]["Total Tokens"] == rows[1]["Total Tokens"] == heard[0]["total_tokens"] > 0
    (times,) = tmp_path.glob("timing_report_*.json")
    assert set(json.loads(times.read_text())) == {"initialization_time", "execution_time", "total_time"}
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.asyncio
async def test_within_a_running_loop(tmp_path):
    found, _ = ask(
        {"aas_keyword_finder": {"keywords": ["Cosmology"]}}, cmbagent.get_aas_keywords, "t", 1, tmp_path
    )
    assert list(found) == ["Cosmology"]


def test_vocabularies_are_whole_and_name_source_and_licence():
    assert len([code for code in vocabulary.unesco() if len(code) == 2]) == 24
    assert vocabulary.unesco()["1209.15"] == "Time series"
    assert vocabulary.below(["1209"])["1209.15"] == "Time series" and vocabulary.below([]) == {}
    assert vocabulary.below(["1209.15"]) == {}
    assert (len(vocabulary.aas()), len(vocabulary.aaai())) == (2275, 282)
    notice = (ROOT / "NOTICE.md").read_text().splitlines()
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"LICENSE", "NOTICE.md", "licenses/*"} == set(package["license-files"])
    for file in DATA.iterdir():
        head = "".join(line for line in file.read_text().splitlines(True) if line.startswith("#"))
        assert "Source:" in head, file
        # The package's licence has to say what is in it.
        (licence,) = (each for each in ("CC-BY-SA-3.0", "Apache-2.0") if ADDRESSES[each] in head)
        (row,) = (line for line in notice if f"`cmbagent/keywords/data/{file.name}`" in line)
        assert licence.replace("-", " ") in row.replace("-", " ") and licence in package["license"]
        assert not any("\\&" in line for line in file.read_text().splitlines()), file


def test_results_as_mappings():
    words = Keywords(["a", "b"])
    assert (words["a"], words.get("b"), words.get("c", 1), words[:1], list(words.values())) == (
        "", "", 1, ["a"], ["", ""],
    )  # fmt: skip
    with pytest.raises(KeyError):
        _ = words["c"]
    with pytest.raises(KeyError):
        _ = LinkedKeywords(a="b")["c"]
