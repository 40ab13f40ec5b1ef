"""Measure the binned power spectrum of the simulated map and compare it with the input.

The power of the Fourier modes is averaged in rings of multipole, the known noise is subtracted and the
beam is divided out. A ring of N modes of a real Gaussian field gives a relative error of sqrt(2 / N) on the
total power.
"""

import csv
from datetime import datetime

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats
from simulate_map import NOISE_POWER, PATCH, PATCH_DEG, PIXELS, beam, input_power, input_spectrum, multipoles

EDGES = np.arange(50, 2051, 80)


def measure(temperature: np.ndarray) -> dict[str, np.ndarray]:
    """Return per ring: multipole, number of modes, D_ell, its error and the input D_ell (all D in uK^2)."""
    ell = multipoles().ravel()
    power = (np.abs(np.fft.fft2(temperature)) ** 2 * (PATCH / PIXELS**2) ** 2).ravel()
    ring = np.digitize(ell, EDGES) - 1
    inside = (ring >= 0) & (ring < len(EDGES) - 1)
    ell, power, ring = ell[inside], power[inside], ring[inside]
    to_d = ell * (ell + 1) / (2 * np.pi)
    modes = np.bincount(ring)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(ring, values) / modes

    sky = input_power(ell)
    total = sky + NOISE_POWER / beam(ell) ** 2
    return {
        "ell": mean(ell),
        "modes": modes,
        "D": mean(to_d * (power - NOISE_POWER) / beam(ell) ** 2),
        "error": np.sqrt(2 * mean((to_d * total) ** 2) / modes),
        "input": mean(to_d * sky),
    }


def plot(temperature: np.ndarray, found: dict[str, np.ndarray], pull: np.ndarray, name: str) -> None:
    """Save the map, the spectrum with its input, and the residuals as panels of one figure."""
    figure = plt.figure(figsize=(13, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.35), height_ratios=(2.4, 1))
    sky = figure.add_subplot(grid[:, 0])
    side = (-PATCH_DEG / 2, PATCH_DEG / 2)
    limit = 3 * temperature.std()
    image = sky.imshow(
        temperature, extent=(*side, *side), cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower"
    )
    sky.set(xlabel="x [deg]", ylabel="y [deg]", title="Simulated temperature map")
    figure.colorbar(image, ax=sky, label=r"$\Delta T$ [$\mu$K]", shrink=0.8)

    spectrum = figure.add_subplot(grid[0, 1])
    curve = np.linspace(EDGES[0], EDGES[-1], 600)
    spectrum.plot(curve, input_spectrum(curve), color="0.35", label="input")
    spectrum.errorbar(found["ell"], found["D"], found["error"], fmt="o", ms=4, capsize=2, label="measured")
    spectrum.set(ylabel=r"$D_\ell$ [$\mu$K$^2$]", title="Binned power spectrum", ylim=(0, None))
    spectrum.grid(alpha=0.3)
    spectrum.legend()

    residual = figure.add_subplot(grid[1, 1], sharex=spectrum)
    residual.axhspan(-1, 1, color="0.9")
    residual.axhline(0, color="0.35")
    residual.plot(found["ell"], pull, "o", ms=4)
    residual.set(xlabel=r"Multipole $\ell$", ylabel=r"Residual [$\sigma$]", ylim=(-4, 4))
    residual.grid(alpha=0.3)
    figure.savefig(name, dpi=300)
    plt.close(figure)


def main() -> None:
    """Measure, compare, save the table and the figure, and print every number."""
    temperature = np.load("data/sky_map.npz")["temperature_uK"].astype(float)
    found = measure(temperature)
    pull = (found["D"] - found["input"]) / found["error"]
    bins = len(pull)
    chi2 = float(np.sum(pull**2))
    weight = found["input"] / found["error"] ** 2
    error_a = float(1 / np.sqrt(np.sum(weight * found["input"])))
    amplitude = float(np.sum(weight * found["D"]) * error_a**2)

    with open("data/power_spectrum.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["ell", "modes", "D_ell_uK2", "error_uK2", "input_uK2", "residual_sigma"])
        for row in zip(*found.values(), pull, strict=True):
            table.writerow([f"{row[0]:.1f}", int(row[1]), *(f"{value:.3f}" for value in row[2:])])
    print(f"Binned power spectrum of {bins} rings saved to data/power_spectrum.csv (D_ell in uK^2)")
    print("   ell   modes   D_ell  error   input  residual")
    for ell, modes, d, error, expected, sigma in zip(*found.values(), pull, strict=True):
        print(f"{ell:6.1f} {modes:7d} {d:7.1f} {error:6.1f} {expected:7.1f} {sigma:+9.2f}")

    print(f"bins = {bins}")
    print(f"chi2 = {chi2:.2f}")
    print(f"p_value = {stats.chi2.sf(chi2, bins):.3f}")
    print(f"amplitude = {amplitude:.4f} (ratio of measured to input power)")
    print(f"amplitude_error = {error_a:.4f}")
    print(f"amplitude_offset = {(amplitude - 1) / error_a:+.2f} sigma")
    print(f"largest_residual = {pull[np.argmax(np.abs(pull))]:+.2f} sigma")
    print(f"largest_residual_ell = {found['ell'][np.argmax(np.abs(pull))]:.1f}")
    peak = int(np.argmax(found["D"]))
    print(f"peak_ell = {found['ell'][peak]:.1f}")
    print(f"peak_power = {found['D'][peak]:.0f} uK2")
    print(f"peak_power_error = {found['error'][peak]:.0f} uK2")
    print(f"snr_peak = {found['D'][peak] / found['error'][peak]:.1f}")

    name = f"data/power_spectrum_1_{datetime.now():%Y%m%d_%H%M%S}.png"
    plot(temperature, found, pull, name)
    print(f"figure = {name}")
    print("The figure shows the map, the measured spectrum with the input curve, and the residuals.")


if __name__ == "__main__":
    main()
