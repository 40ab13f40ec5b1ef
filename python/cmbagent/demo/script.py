"""What the scripted agents of the demonstration say.

The planner improves its plan by the reviewer's recommendations, the engineer answers with the scripts in
``engineer-scripts``, and the researcher writes its report from the numbers that those scripts printed:
its answer is computed from the prompt, as a model's would be.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

from cmbagent.testing import Call, code, notes, plan, review, step

REPORT = "report.md"

# A name of no model there is, so that the run shows tokens and no dollars: none are spent.
MODELS: dict[str, Any] = dict.fromkeys(
    ("planner_model", "plan_reviewer_model", "engineer_model", "researcher_model"), "scripted"
)

_FIRST_PLAN = plan(
    step(
        "engineer",
        "Simulate the map and measure its power spectrum.",
        "Sample a Gaussian map.",
        "Plot D_ell.",
    ),
    step("researcher", "Write the report.", "Describe the map and the spectrum."),
)

_RECOMMENDATIONS = review(
    "Split simulation and measurement into two engineer steps that share the input spectrum by import, so that "
    "either can be repeated alone.",
    "Subtract the noise power, divide out the beam, and give every ring an error bar from its number of modes.",
    "Compare with the input averaged over the same modes: chi-square, p-value and a fitted amplitude with its error.",
)

_PLAN = plan(
    step(
        "engineer",
        "Simulate a CMB-like temperature map with beam and white noise on a flat patch.",
        "Sample a Gaussian random field from an input spectrum with acoustic peaks; fix and print the seed.",
        "Smooth it with a Gaussian beam, add white noise, save the map under data/.",
        "Print the patch, pixel, beam and noise, and the rms of sky and noise in uK.",
    ),
    step(
        "engineer",
        "Measure the binned power spectrum with error bars and test it against the input.",
        "Import the input spectrum from the first script; subtract the noise power and divide out the beam.",
        "Error bars from the number of modes; input averaged over the same modes.",
        "Print chi-square, p-value and fitted amplitude; save the table as CSV and one figure with panels.",
    ),
    step(
        "researcher",
        "Write the report.",
        "State method, results with errors, the goodness of fit and the limits of the test.",
        "Quote numbers only as printed; refer to the figure and the table by file name.",
    ),
)

_ROW = re.compile(
    r"^\s*(\d+\.\d) +(\d+) +(-?\d+\.\d) +(\d+\.\d) +(\d+\.\d) +([+-]\d+\.\d+)\s*$",
    re.MULTILINE,
)


def script() -> dict[str, Any]:
    """The script for `cmbagent.testing.ModelServer`."""
    return {
        "planner": [_FIRST_PLAN, _PLAN],
        "plan_reviewer": [_RECOMMENDATIONS],
        "engineer": [
            code(
                _source("simulate_map.py"),
                filename="simulate_map.py",
                explanation="A Gaussian random field is drawn in Fourier space, smoothed by the beam, and noise added.",
            ),
            code(
                _source("measure_spectrum.py"),
                filename="measure_spectrum.py",
                explanation="Mode power is averaged in rings, noise and beam are removed, and the result is tested.",
            ),
        ],
        "researcher": [_report],
    }


def _source(name: str) -> str:
    return files("cmbagent.demo").joinpath("engineer-scripts", name).read_text(encoding="utf-8")


def _printed(prompt: str, name: str) -> str:
    """The value that a script printed as ``name = value``.

    Raises:
        LookupError: when the prompt does not hold it.
    """
    # The prompt holds the scripts' code too, where the same names get expressions and not values.
    found = re.findall(rf"^\s*{name} = ([-+]?\d[\d.]*|data/\S+)(?=\s|$)", prompt, re.MULTILINE)
    if not found:
        raise LookupError(
            f"no line '{name} = …' in the researcher's prompt: the scripts' output is missing from it"
        )
    return str(found[-1])


def _report(call: Call) -> str:
    """The report, every number in it taken from the prompt."""

    def value(name: str) -> str:
        return _printed(call.prompt, name)

    rows = list(dict.fromkeys(_ROW.findall(call.prompt)))
    p_value, offset = float(value("p_value")), abs(float(value("amplitude_offset")))
    if p_value >= 0.05 and offset < 2:
        verdict = "The measurement agrees with the input spectrum within its errors."
    else:
        verdict = "The measurement deviates from the input spectrum by more than its errors allow."
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return notes(f"""
# Power spectrum of a simulated CMB-like map

## Summary

A temperature map of {value("patch_side")}° × {value("patch_side")}° was simulated from a known spectrum, and its power
spectrum was measured in {value("bins")} rings of multipole. {verdict} The goodness of fit is
χ² = {value("chi2")} for {value("bins")} rings (p = {value("p_value")}); the fitted amplitude of the input is
**{value("amplitude")} ± {value("amplitude_error")}**, {value("amplitude_offset")} σ from one.

## Method

The sky is a Gaussian random field (seed {value("seed")}) on {value("pixels_per_side")} × {value("pixels_per_side")}
pixels of {value("pixel_size")}′, with an input spectrum made of a smooth part and six acoustic peaks. It is smoothed
with a Gaussian beam of {value("beam_fwhm")}′ (FWHM); white noise of {value("noise_level")} μK arcmin is added. The sky
has an rms of {value("sky_rms")} μK, the noise {value("noise_rms")} μK in a pixel.

The power of the Fourier modes is averaged in rings, the known noise power is subtracted and the beam divided out.
A ring of N modes of a real Gaussian field determines its total power to √(2/N), which gives the error bars. The input
is averaged over the same modes before the comparison.

## Results

The first acoustic peak is seen in the ring at ℓ = {value("peak_ell")}, with
D = {value("peak_power")} ± {value("peak_power_error")} μK², {value("snr_peak")} times its error. The largest residual,
{value("largest_residual")} σ, lies at ℓ = {value("largest_residual_ell")}; with {value("bins")} rings that is not unusual
when it is below three. The figure `{value("figure")}` shows the map, the spectrum with the input curve, and the
residuals; the numbers below are those of `data/power_spectrum.csv`.

| ℓ | modes | D [μK²] | error [μK²] | input [μK²] | residual [σ] |
|--:|--:|--:|--:|--:|--:|
{table}

## Limits

The patch is periodic and unmasked, so that its Fourier modes are independent and the error bars exact up to the
binning; a real patch needs a mask and its coupling matrix. Noise level and beam are known here without error. The input
spectrum imitates the shape of a CMB spectrum and comes from no Boltzmann code: its parameters have no meaning in
cosmology.
""")
