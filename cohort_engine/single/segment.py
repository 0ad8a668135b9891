"""The cord of one image: mask, grey matter and centreline as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cohort_engine.cord.grey import GreyMatter, grey_matter
from cohort_engine.cord.segment import ABSENT, FLAGS, Segmentation, segment
from cohort_engine.errors import CordError
from cohort_engine.io.volume import Volume, on_voxels_of, read_mask, read_volume, require_signal, write_volume
from cohort_engine.nn.weights import CordNetworks, load_cord, load_grey
from cohort_engine.single.columns import Columns

IMAGE, MASK = "image", "cord mask"
NIFTI = (".nii", ".nii.gz")


def segment_image(
    image: str | Path, out: str | Path, *, soft: str | Path | None = None, device: str = "auto", half: bool | None = None
) -> Segmentation:
    """Segment the cord of an image file.

    Parameters
    ----------
    image : path or URL
        One 3-D volume of any orientation, resolution, contrast and field of view.
    out : path or URL
        Binary mask to write: uint8, on the image's own voxels, in their order.
    soft : path or URL, optional
        Part of each voxel that is cord, 0 to 1, float32.
    device, half
        See `nn.weights.load_cord`.

    Returns
    -------
    Segmentation
        What is odd about it is in its `flags`; an image without a cord gives an empty mask.

    Raises
    ------
    InputError, StorageError, ConfigError
    """
    volume, found = _segmented(image, load_cord(device=device, half=half))
    write_volume(out, volume.with_data(found.mask))
    if soft is not None:
        write_volume(soft, volume.with_data(found.soft))
    return found


def grey_image(image: str | Path, mask: str | Path, out: str | Path, *, device: str = "auto", half: bool | None = None) -> GreyMatter:
    """Segment the grey matter of the cord of an image file; other parameters and errors as of `segment_image`.

    Parameters
    ----------
    mask : path or URL
        Cord mask of the image, on its grid.
    out : path or URL
        Part of each voxel that is grey matter, 0 to 1, float32.
    """
    volume = read_volume(image, what=IMAGE)
    require_signal(volume, what=IMAGE)
    cord = on_voxels_of(volume, read_mask(mask, what=MASK), what=MASK, like="the image", remedy="Segment this very image.")
    found = grey_matter(volume.data, volume.affine, cord.data, network=load_grey(device=device, half=half), what=MASK)
    write_volume(out, volume.with_data(found.soft))
    return found


def centreline_image(image: str | Path, out: str | Path, *, device: str = "auto", half: bool | None = None) -> Segmentation:
    """Find the centreline of the cord of an image file; parameters and errors as of `segment_image`.

    Parameters
    ----------
    out : path or URL
        ``.nii`` or ``.nii.gz``: one voxel a slice, the nearest. Else a CSV file: slice (from 0 at the bottom), x, y, z (RAS+ mm), confidence.

    Raises
    ------
    CordError
        The image shows no cord.
    """
    volume, found = _segmented(image, load_cord(device=device, half=half))
    if ABSENT in found.flags:
        raise CordError(expected="a cord", found=FLAGS[ABSENT], where=IMAGE, remedy="Check that the image shows the spine.")
    inside = np.flatnonzero(np.isfinite(found.points[:, 0]))
    if str(out).endswith(NIFTI):
        line = np.zeros(found.mask.shape, bool)
        spacing = np.linalg.norm(found.affine[:3, :2], axis=0)
        index = np.rint(np.stack([found.curve.x, found.curve.y], axis=1)[inside] / spacing).astype(int)
        x, y = np.clip(index, 0, np.array(line.shape[:2]) - 1).T
        line[x, y, inside] = True
        write_volume(out, volume.with_data(line))
        return found
    columns = dict(zip("xyz", found.points[inside].T.round(3).tolist(), strict=True))
    Columns({"slice": inside.tolist(), **columns, "confidence": found.confidence[inside].round(3).tolist()}).write(Path(out))
    return found


def _segmented(image: str | Path, networks: CordNetworks) -> tuple[Volume, Segmentation]:
    volume = read_volume(image, what=IMAGE)
    require_signal(volume, what=IMAGE)
    return volume, segment(volume.data, volume.affine, networks=networks, what=IMAGE)
