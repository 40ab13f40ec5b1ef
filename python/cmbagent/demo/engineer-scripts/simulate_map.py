"""Simulate a CMB-like temperature map on a flat patch of sky.

The sky is a Gaussian random field drawn from an input power spectrum; a Gaussian beam smooths it and
white noise is added. Angles are in radians and temperatures in microkelvin (uK) unless a name says otherwise.
"""

from pathlib import Path

import numpy as np

SEED = 20260101
PIXELS = 384
PATCH_DEG = 24.0
BEAM_FWHM_ARCMIN = 7.0
NOISE_UK_ARCMIN = 20.0

PATCH = np.radians(PATCH_DEG)
SIGMA_BEAM = np.radians(BEAM_FWHM_ARCMIN / 60) / np.sqrt(8 * np.log(2))
NOISE_POWER = np.radians(NOISE_UK_ARCMIN / 60) ** 2

# Multipole, height in uK^2 and width in multipole of each acoustic peak of the input spectrum.
PEAKS = (
    (220, 4700, 85),
    (535, 2000, 85),
    (810, 2150, 90),
    (1125, 950, 95),
    (1440, 620, 100),
    (1780, 260, 110),
)


def input_spectrum(ell: np.ndarray) -> np.ndarray:
    """Return the input D_ell = ell (ell + 1) C_ell / (2 pi) in uK^2 at multipoles ``ell``."""
    smooth = 950 * np.exp(-((ell / 1500) ** 2)) + 120 * np.exp(-ell / 900)
    return smooth + sum(height * np.exp(-0.5 * ((ell - at) / width) ** 2) for at, height, width in PEAKS)


def input_power(ell: np.ndarray) -> np.ndarray:
    """Return the input C_ell in uK^2 sr; zero at ell = 0, where a flat patch has no information."""
    safe = np.maximum(ell, 1)
    return np.where(ell > 0, 2 * np.pi * input_spectrum(safe) / (safe * (safe + 1)), 0.0)


def multipoles() -> np.ndarray:
    """Return the multipole of every Fourier mode of the patch, in the order of ``numpy.fft.fft2``."""
    k = 2 * np.pi * np.fft.fftfreq(PIXELS, d=PATCH / PIXELS)
    return np.hypot(k[:, None], k[None, :])


def beam(ell: np.ndarray) -> np.ndarray:
    """Return the transfer function of the Gaussian beam at multipoles ``ell``."""
    return np.exp(-0.5 * (ell * SIGMA_BEAM) ** 2)


def draw(power: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a real Gaussian field in uK whose Fourier modes have the given power in uK^2 sr."""
    white = np.fft.fft2(rng.standard_normal((PIXELS, PIXELS)))
    return np.fft.ifft2(white * np.sqrt(power) * PIXELS / PATCH).real


def main() -> None:
    """Simulate the map, save it and print its description."""
    rng = np.random.default_rng(SEED)
    ell = multipoles()
    sky = draw(input_power(ell) * beam(ell) ** 2, rng)
    noise = draw(np.full_like(ell, NOISE_POWER), rng)
    Path("data").mkdir(exist_ok=True)
    np.savez_compressed("data/sky_map.npz", temperature_uK=(sky + noise).astype("float32"))

    print("Simulated map of a CMB-like Gaussian random field, saved to data/sky_map.npz (temperature in uK)")
    print(f"seed = {SEED}")
    print(f"pixels_per_side = {PIXELS}")
    print(f"patch_side = {PATCH_DEG} deg")
    print(f"pixel_size = {PATCH_DEG * 60 / PIXELS:.2f} arcmin")
    print(f"beam_fwhm = {BEAM_FWHM_ARCMIN} arcmin")
    print(f"noise_level = {NOISE_UK_ARCMIN} uK_arcmin")
    print(f"sky_rms = {sky.std():.2f} uK (beam-smoothed sky alone)")
    print(f"noise_rms = {noise.std():.2f} uK (noise alone, per pixel)")


if __name__ == "__main__":
    main()
