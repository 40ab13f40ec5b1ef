//! Plots as models take them: PNG or JPEG, scaled down, in Base64; of a GIF its first frame.

use std::io::Cursor;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::imageops::{FilterType, overlay};
use image::{DynamicImage, ImageFormat, ImageReader, Limits, Rgba, RgbaImage};
use serde::{Deserialize, Serialize};

/// Pixels of the longer side: beyond it, providers scale down themselves and charge for more.
const LONGEST: u32 = 1568;
/// A file below this many bytes goes as it is when its sides are short enough.
const SMALL: u64 = 1_000_000;
/// Beyond this many bytes a PNG (a map of noise) goes as JPEG: providers refuse pictures of 5 MB.
const MOST_SENT: usize = 3_000_000;
/// Bytes a file may have, and memory its pixels may take: more is no plot but a trap.
const MOST_BYTES: u64 = 64 * 1024 * 1024;
const MOST_MEMORY: u64 = 512 * 1024 * 1024;

/// A picture that can be sent to a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// How the prompt names it: its path relative to the phase's directory.
    pub name: String,
    /// Its MIME type.
    pub media_type: String,
    /// Its bytes in Base64.
    pub base64: String,
}

/// Pictures that could be read, and the names of those that could not with the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gallery {
    /// In the order asked for.
    pub pictures: Vec<Picture>,
    /// One sentence each.
    pub unreadable: Vec<String>,
}

impl Gallery {
    /// Reads pictures; `names` are relative to `root`.
    pub fn read<'a>(root: &Path, names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut gallery = Self::default();
        for name in names {
            match read(&root.join(name)) {
                Ok((media_type, bytes)) => gallery.pictures.push(Picture {
                    name: name.to_owned(),
                    media_type: media_type.to_owned(),
                    base64: STANDARD.encode(bytes),
                }),
                Err(why) => gallery.unreadable.push(format!("{name} cannot be shown to a model: {why}")),
            }
        }
        gallery
    }
}

/// A picture's MIME type and its bytes, scaled down where it is large.
fn read(path: &Path) -> Result<(&'static str, Vec<u8>), String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let size = std::fs::metadata(path).map_err(|e| told(&e))?.len();
    if size > MOST_BYTES {
        return Err(format!("it has {size} bytes, and at most {MOST_BYTES} are read"));
    }
    let bytes = std::fs::read(path).map_err(|e| told(&e))?;
    let reader = ImageReader::new(Cursor::new(&bytes)).with_guessed_format().map_err(|e| told(&e))?;
    let (format, media_type) = match reader.format() {
        Some(ImageFormat::Png) => (ImageFormat::Png, "image/png"),
        Some(ImageFormat::Jpeg) => (ImageFormat::Jpeg, "image/jpeg"),
        // Not every model takes a GIF, and none sees it move.
        Some(ImageFormat::Gif) => (ImageFormat::Gif, "image/png"),
        _ => return Err("it is neither PNG, JPEG nor GIF".into()),
    };
    // Decoded also when it goes as it is: half a file would cost a call and come back as an error.
    let picture = decode(&bytes, format).map_err(|e| told(&e))?;
    if picture.width().max(picture.height()) <= LONGEST && size <= SMALL && format != ImageFormat::Gif {
        return Ok((media_type, bytes));
    }
    let scaled = if picture.width().max(picture.height()) > LONGEST {
        picture.resize(LONGEST, LONGEST, FilterType::CatmullRom)
    } else {
        picture
    };
    // 16 bits a channel double the file and show nothing more.
    let plain = scaled.to_rgba8();
    let encode = |picture: DynamicImage, format| {
        let mut out = Cursor::new(Vec::new());
        picture.write_to(&mut out, format).map_err(|e| e.to_string()).map(|()| out.into_inner())
    };
    let whole = encode(DynamicImage::from(plain.clone()), ImageFormat::Png)?;
    if whole.len() <= MOST_SENT {
        return Ok(("image/png", whole));
    }
    // JPEG knows no transparency: what lies behind a figure is white.
    let mut page = RgbaImage::from_pixel(plain.width(), plain.height(), Rgba([255; 4]));
    overlay(&mut page, &plain, 0, 0);
    let page = DynamicImage::from(DynamicImage::from(page).to_rgb8());
    Ok(("image/jpeg", encode(page, ImageFormat::Jpeg)?))
}

fn decode(bytes: &[u8], format: ImageFormat) -> image::ImageResult<DynamicImage> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_MEMORY);
    reader.limits(limits);
    reader.decode()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use image::Frame;
    use image::codecs::gif::GifEncoder;

    fn shown(gallery: &Gallery) -> Vec<(String, u32, u32)> {
        let one = |picture: &Picture| {
            let bytes = STANDARD.decode(&picture.base64).unwrap();
            let read = image::load_from_memory(&bytes).unwrap();
            (picture.media_type.clone(), read.width(), read.height())
        };
        gallery.pictures.iter().map(one).collect()
    }

    #[test]
    fn large_plots_are_scaled_down_and_small_ones_go_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let plot = |name: &str, width, height| {
            DynamicImage::new_rgb8(width, height).save(dir.path().join(name)).unwrap();
        };
        plot("wide.png", 3136, 1000);
        plot("small.png", 300, 200);
        plot("photo.jpg", 100, 50);
        let gallery = Gallery::read(dir.path(), ["wide.png", "small.png", "photo.jpg"]);
        assert!(gallery.unreadable.is_empty(), "{:?}", gallery.unreadable);
        let expected = [("image/png", 1568, 500), ("image/png", 300, 200), ("image/jpeg", 100, 50)];
        assert_eq!(shown(&gallery), expected.map(|(kind, w, h)| (kind.to_owned(), w, h)));
        let small = std::fs::read(dir.path().join("small.png")).unwrap();
        assert_eq!(STANDARD.decode(&gallery.pictures[1].base64).unwrap(), small);
    }

    #[test]
    fn a_map_of_noise_is_sent_small_enough() {
        let dir = tempfile::tempdir().unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let mut noise = || Rgba([random.u8(..), random.u8(..), random.u8(..), 255]);
        RgbaImage::from_fn(1600, 1200, |_, _| noise()).save(dir.path().join("map.png")).unwrap();
        let gallery = Gallery::read(dir.path(), ["map.png"]);
        assert_eq!(shown(&gallery), [("image/jpeg".to_owned(), 1568, 1176)]);
        assert!(gallery.pictures[0].base64.len() < 4_500_000, "{}", gallery.pictures[0].base64.len());
    }

    #[test]
    fn what_is_no_picture_is_told_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let whole = {
            DynamicImage::new_rgb8(40, 40).save(dir.path().join("whole.png")).unwrap();
            std::fs::read(dir.path().join("whole.png")).unwrap()
        };
        std::fs::write(dir.path().join("half.png"), &whole[..whole.len() / 2]).unwrap();
        std::fs::write(dir.path().join("empty.gif"), b"GIF89a\x01\x00\x01\x00\x00\x00\x00;").unwrap();
        std::fs::write(dir.path().join("curve.png"), "<svg></svg>").unwrap();
        let names = ["half.png", "empty.gif", "absent.png", "curve.png", "whole.png"];
        let gallery = Gallery::read(dir.path(), names);
        assert_eq!(gallery.pictures.len(), 1);
        assert_eq!(gallery.unreadable.len(), 4);
        for (told, name) in gallery.unreadable.iter().zip(names) {
            assert!(told.starts_with(&format!("{name} cannot be shown to a model: ")), "{told}");
        }
        assert!(gallery.unreadable[3].ends_with("neither PNG, JPEG nor GIF"));
    }

    #[test]
    fn of_a_film_the_first_frame_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("film.gif")).unwrap();
        let mut film = GifEncoder::new(file);
        for color in [[255, 0, 0, 255], [0, 0, 255, 255]] {
            film.encode_frame(Frame::new(RgbaImage::from_pixel(40, 30, Rgba(color)))).unwrap();
        }
        drop(film);
        let gallery = Gallery::read(dir.path(), ["film.gif"]);
        assert_eq!(shown(&gallery), [("image/png".to_owned(), 40, 30)]);
        let bytes = STANDARD.decode(&gallery.pictures[0].base64).unwrap();
        let seen = image::load_from_memory_with_format(&bytes, ImageFormat::Png).unwrap().to_rgb8();
        assert_eq!(seen.get_pixel(20, 15).0, [255, 0, 0]);
    }
}
