"""One image: register, segment, label, make MTR, fit tensors, warp, extract, measure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cohort_engine.cli.say import note, plain, require_values, say, show
from cohort_engine.cli.words import WORDS, Device, Half, TemplateName, TemplatePath, command

PhaseEncoding = Annotated[
    str, typer.Option("--phase-encoding", help="ap (or pa): back-front; rl (or lr): left-right. By default as the JSON file beside says, else ap.")
]


@command()
def register(
    image: Annotated[Path, typer.Argument(help="Image to register.")],
    mask: Annotated[Path, typer.Option("--mask", help="Cord mask of the image.")],
    levels: Annotated[Path, typer.Option("--levels", help="Landmarks: point labels, or a mask labelled by level.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    kind: Annotated[
        str, typer.Option("--kind", help="disc: point n lies above vertebra n (3 = C2/C3); body: point n is vertebra n; auto reads the file name.")
    ] = "auto",
    grey: Annotated[Path | None, typer.Option("--grey", help="Grey matter of the image (command grey): moves the inside of the cord.")] = None,
    refine: Annotated[bool, typer.Option(help="Let the image refine the map, if it shows grey matter.")] = True,
    template: TemplateName = "PAM50",
    template_path: TemplatePath = None,
    deformable: Annotated[bool, typer.Option(help="Match the outlines after the geometric steps.")] = True,
    engine: Annotated[str, typer.Option(help="What matches the outlines: ants (SyN), or torch (log-demons, a third of the time).")] = "ants",
    seed: int = 1,
) -> None:
    """Register one image to the template: atlas and masks in the image's space, warps both ways, quality numbers."""
    from cohort_engine.single.register import register_image
    from cohort_engine.template import load_template

    quality = register_image(
        image, mask=mask, levels=levels, out=out, kind=kind, grey=grey, refine=refine, template=load_template(template, path=template_path),
        deformable=deformable, engine=engine, seed=seed,
    )  # fmt: skip
    show(quality, str(out), digits=3)


@command()
def segment(
    image: Annotated[Path, typer.Argument(help="Image of any contrast, resolution, orientation and field of view.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Cord mask to write.")],
    soft: Annotated[Path | None, typer.Option("--soft", help="Write the part of each voxel that is cord here as well.")] = None,
    device: Device = "auto",
    half: Half = None,
) -> None:
    """Segment the spinal cord. An image without one gives an empty mask; what is odd is printed."""
    from cohort_engine.single.segment import segment_image

    _found(segment_image(image, out, soft=soft, device=device, half=half))


@command()
def grey(
    image: Annotated[Path, typer.Argument(help="Image that shows grey matter, for instance T2* or MT.")],
    mask: Annotated[Path, typer.Option("--mask", help="Cord mask of the image.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Part of each voxel that is grey matter, to write.")],
    device: Device = "auto",
    half: Half = None,
) -> None:
    """Segment the grey matter of the cord, and say how clearly the image shows it."""
    from cohort_engine.single.segment import grey_image

    found = grey_image(image, mask, out, device=device, half=half)
    say(f"grey matter stands out by {found.contrast:+.1f} times the noise" + ("" if found.shown else ": too little, what was found is a guess"))


@command()
def centerline(
    image: Annotated[Path, typer.Argument(help="Image of any contrast, resolution, orientation and field of view.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV of slice, x, y, z (mm) and confidence; or .nii.gz, one voxel a slice.")],
    device: Device = "auto",
    half: Half = None,
) -> None:
    """Find the centreline of the spinal cord as one optimal curve through all slices."""
    from cohort_engine.single.segment import centreline_image

    _found(centreline_image(image, out, device=device, half=half))


@command()
def label(
    image: Annotated[Path, typer.Argument(help="Image that shows discs.")],
    mask: Annotated[Path, typer.Option("--mask", help="Cord mask of the image.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Cord mask labelled by vertebral level, to write (1 = C1, 8 = T1).")],
    discs: Annotated[Path | None, typer.Option("--discs", help="Write one point a disc here as well (3 = C2/C3).")] = None,
    points: Annotated[Path | None, typer.Option("--points", help="Landmarks that are known: point labels, or a mask labelled by level.")] = None,
    kind: Annotated[
        str, typer.Option("--kind", help="What points are. disc: n lies above vertebra n (3 = C2/C3); body: n is vertebra n; auto: file name.")
    ] = "auto",
    init_disc: Annotated[int | None, typer.Option("--init-disc", help="Number of a disc that is known (3 = C2/C3).")] = None,
    init_z: Annotated[float | None, typer.Option("--init-z", help="Its slice, counted from 0 at the bottom.")] = None,
    template: TemplateName = "PAM50",
    template_path: TemplatePath = None,
    device: Device = "auto",
    half: Half = None,
) -> None:
    """Find and name the discs, and label the cord by vertebral level. Where the names are not certain it asks for a landmark."""
    from cohort_engine.single.label import label_image
    from cohort_engine.template import load_heights

    found = label_image(
        image, mask, out, template=load_heights(template, path=template_path), discs=discs, points=points, kind=kind,
        init=None if init_disc is None and init_z is None else (init_disc, init_z), device=device, half=half,
    )  # fmt: skip
    show(found.table(), str(out))
    for text in found.axis.notes:
        note(text)


@command()
def mtr(
    on: Annotated[Path, typer.Option("--on", help="MT-on image.")],
    off: Annotated[Path, typer.Option("--off", help="MT-off image, on the grid of MT-on.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="MTR map to write, percent, on the voxels of MT-on; beside it a JSON file that says how.")],
    mask: Annotated[Path | None, typer.Option("--mask", help="Cord mask of MT-on; by default the cord is segmented there.")] = None,
    coregister: Annotated[
        str, typer.Option("--coregister", help="none; slicewise, shifts in the plane; deformable, SyN after those, not better in every scan.")
    ] = "slicewise",
    low_signal: Annotated[float, typer.Option("--low-signal", help="NaN where MT-off is at or below this share of the cord's median.")] = 0.05,
    seed: int = 1,
) -> None:
    """Make the magnetization transfer ratio of one pair of images."""
    from cohort_engine.single.mtr import mtr_image

    found = mtr_image(on, off, out, mask=mask, coregister=coregister, low_signal=low_signal, seed=seed)
    cord, moved = found["Cord"], found["Coregistration"]["LargestMovement_mm"]
    say(f"median {cord['Median']:.1f} % in the cord ({found['CordMask']}), {100 * cord['Missing']:.1f} % of it without a value")
    say(f"MT-off moved by up to {moved:.2f} mm ({coregister})")
    if coregister == "deformable":
        note("SyN is not better than slicewise in every scan: compare both, see docs/how-to/mtr-and-warp.md")


@command()
def mtsat(
    on: Annotated[Path, typer.Option("--on", help="MT-on image.")],
    off: Annotated[Path, typer.Option("--off", help="MT-off image, on the grid of MT-on.")],
    t1w: Annotated[Path, typer.Option("--t1w", help="T1w image of the MT protocol, on the grid of MT-on.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="MTsat map to write, percent; beside it a JSON file that says how.")],
    t1: Annotated[Path | None, typer.Option("--t1", help="T1 map to write as well, s.")] = None,
    mask: Annotated[Path | None, typer.Option("--mask", help="Cord mask of MT-on; by default the cord is segmented there.")] = None,
    b1: Annotated[Path | None, typer.Option("--b1", help="Map of the transmit field: actual over nominal flip angle.")] = None,
    tr: Annotated[
        str | None, typer.Option("--tr", help="Repetition times of MT-on, MT-off, T1w in s (0.035,0.035,0.015); by default of the JSON beside each.")
    ] = None,
    flip: Annotated[str | None, typer.Option("--flip", help="Flip angles likewise, degrees (9,9,15).")] = None,
    coregister: Annotated[
        str, typer.Option("--coregister", help="none; slicewise, shifts in the plane; deformable, SyN after those, not better in every scan.")
    ] = "slicewise",
    low_signal: Annotated[float, typer.Option("--low-signal", help="NaN where MT-off is at or below this share of the cord's median.")] = 0.05,
    seed: int = 1,
) -> None:
    """Make maps of magnetization transfer saturation and T1 of three images."""
    from cohort_engine.single.mtsat import mtsat_image

    found = mtsat_image(
        on, off, t1w, out, t1=t1, mask=mask, b1=b1, tr=_three(tr, "--tr"), flip=_three(flip, "--flip"), coregister=coregister,
        low_signal=low_signal, seed=seed,
    )  # fmt: skip
    cord, t1_cord, moved = found["Cord"], found["T1"], found["Coregistration"]["LargestMovement_mm"]
    say(f"median MTsat {cord['Median']:.2f} %, T1 {t1_cord['Median']:.2f} s in the cord ({found['CordMask']})")
    say(f"{100 * cord['Missing']:.1f} % of the cord without a value")
    say(f"MT-off moved by up to {moved['MT-off']:.2f} mm, T1w by up to {moved['T1w']:.2f} mm ({coregister})")


def _three(text: str | None, option: str) -> list[float] | None:
    """Three numbers, of MT-on, MT-off and T1w."""
    if text is None:
        return None
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise typer.BadParameter(f"three numbers, of MT-on, MT-off and T1w (found {text!r})", param_hint=option)
    return numbers


@command()
def moco(
    series: Annotated[Path, typer.Argument(help="Diffusion series (4-D), as it was scanned.")],
    bval: Annotated[Path, typer.Option("--bval", help="b-values of its volumes, s/mm2.")],
    bvec: Annotated[Path, typer.Option("--bvec", help="Directions of its volumes, as FSL has them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Corrected series to write; beside it a JSON file, and _motion.tsv and .png.")],
    mask: Annotated[Path | None, typer.Option("--mask", help="Cord mask on its voxels; by default the cord is segmented in its mean.")] = None,
    reverse: Annotated[Path | None, typer.Option("--reverse", help="Image of the same slices with the opposite phase encoding.")] = None,
    mean: Annotated[Path | None, typer.Option("--mean", help="Write the mean of the corrected diffusion-weighted volumes here.")] = None,
    interleaved: Annotated[
        bool | None, typer.Option("--interleaved/--sequential", help="Odd and even slices may lie apart, or not; by default the series says.")
    ] = None,
    eddy: Annotated[bool, typer.Option("--eddy", help="Correct stretch and shear along phase encoding as well.")] = False,
    phase_encoding: PhaseEncoding = "",
    max_shift: Annotated[float, typer.Option("--max-shift", help="Largest displacement that is looked for, mm.")] = 12.0,
) -> None:
    """Correct the motion of a diffusion series, slice by slice around the cord; and its distortion, given a reverse image."""
    from cohort_engine.single.moco import MocoSettings
    from cohort_engine.single.moco_files import moco_image

    settings = MocoSettings(interleaved=interleaved, eddy=eddy, phase_axis=_phase_axis(phase_encoding, series), max_shift=max_shift)
    found = moco_image(series, out, bval=bval, bvec=bvec, mask=mask, reverse=reverse, mean=mean, settings=settings)
    numbers = found["Quality"]
    apart = ", odd and even slices apart" if found["Interleaved"] else ""
    say(f"slices moved by up to {numbers['largest_shift']:.2f} mm, {numbers['median_shift']:.2f} mm in the median{apart}")
    for name, words in (("b0", "without diffusion weighting"), ("dwi", "with it")):
        if numbers.get(f"spread_{name}_before") is not None:
            before, after = (100 * numbers[f"spread_{name}_{when}"] for when in ("before", "after"))
            say(f"spread of the volumes {words}: {before:.1f} % of the mean before, {after:.1f} % after")
    if "largest_displacement" in numbers:
        say(f"distortion of up to {numbers['largest_displacement']:.1f} mm in the cord")
    for word, volumes in found["Flags"].items():
        say(f": {sum(map(len, volumes.values()))} slices, in {', '.join(volumes)}", head=word, colour="yellow")


@command()
def undistort(
    image: Annotated[Path, typer.Argument(help="Echo-planar image or series without diffusion weighting.")],
    reverse: Annotated[Path, typer.Option("--reverse", help="Image of the same slices with the opposite phase encoding.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Corrected image to write; beside it a JSON file that says how.")],
    mask: Annotated[Path | None, typer.Option("--mask", help="Cord mask of the image; by default the cord is segmented in it.")] = None,
    field: Annotated[Path | None, typer.Option("--field", help="Write the displacement here, mm.")] = None,
    phase_encoding: PhaseEncoding = "",
) -> None:
    """Correct the distortion of an echo-planar image around the cord, from a pair with opposite phase encoding."""
    from cohort_engine.single.undistort import undistort_image

    found = undistort_image(image, reverse, out, mask=mask, field=field, phase_axis=_phase_axis(phase_encoding, image))
    size = found["Displacement_mm"]
    say(f"distortion of up to {size['Largest']:.1f} mm in the cord, {size['Median']:.1f} mm in the median ({found['CordMask']})")


def _phase_axis(words: str, image: Path) -> int:
    """Array axis of a direction of phase encoding; without one, as the sidecar of the image says."""
    from cohort_engine.errors import unknown_name
    from cohort_engine.single.undistort import phase_axis_beside

    if not words:
        return phase_axis_beside(image)
    known = {"ap": 1, "pa": 1, "rl": 0, "lr": 0}
    if words.lower() not in known:
        raise unknown_name("direction of phase encoding", words, list(known), where="phase encoding")
    return known[words.lower()]


@command()
def dti(
    series: Annotated[Path, typer.Argument(help="Diffusion series (4-D), as it was scanned.")],
    bval: Annotated[Path, typer.Option("--bval", help="b-values of its volumes, s/mm2.")],
    bvec: Annotated[Path, typer.Option("--bvec", help="Directions of its volumes, as FSL has them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Beginning of the names of the maps: sub-01 gives sub-01_FA.nii.gz, ...")],
    mask: Annotated[
        Path | None, typer.Option("--mask", help="Cord mask on its voxels; by default the cord is segmented in the corrected mean.")
    ] = None,
    reverse: Annotated[Path | None, typer.Option("--reverse", help="Image of the same slices with the opposite phase encoding.")] = None,
    moco: Annotated[bool, typer.Option(help="Correct motion, slice by slice.")] = True,
    eddy: Annotated[bool, typer.Option("--eddy", help="Correct stretch and shear along phase encoding as well.")] = False,
    phase_encoding: PhaseEncoding = "",
    denoise: Annotated[bool, typer.Option("--denoise", help="Denoise first (MP-PCA).")] = False,
    method: Annotated[str, typer.Option("--method", help="wls; irls, without signals that lie far off a robust fit.")] = "wls",
    reliable: Annotated[bool, typer.Option("--reliable", help="Maps are NaN in voxels that cannot be relied on.")] = False,
) -> None:
    """Make FA, MD, AD and RD of one diffusion series, with their standard errors, from the scan as it is."""
    from cohort_engine.single.dti import dti_image
    from cohort_engine.single.moco import MocoSettings

    settings = MocoSettings(eddy=eddy, phase_axis=_phase_axis(phase_encoding, series))
    found = dti_image(
        series, out, bval=bval, bvec=bvec, mask=mask, reverse=reverse, moco=moco, settings=settings, denoise=denoise, reliable=reliable,
        method=method,  # type: ignore[arg-type]  # another word is refused there
    )  # fmt: skip
    cord, check = found["Cord"], found["Directions"]
    say(f"median FA {cord['FA']}, MD {cord['MD']} um2/ms in {cord['Voxels']} voxels of the cord ({found['CordMask']})")
    say(f"{100 * cord['Reliable']:.1f} % of them can be relied on, at a signal-to-noise ratio of {cord['SNR']} without diffusion weighting")
    if found["LostSlices"]:
        say(f"volumes that lost their signal in a slice were left out there: {', '.join(f'{len(v)} in {k}' for k, v in found['LostSlices'].items())}")
    margin = "too few slices for a margin" if check["Margin"] is None else f"margin {check['Margin']} standard errors"
    say(f"directions {check['Verdict']}: {check['Means']} ({margin})")


@command()
def warp(
    images: Annotated[list[Path], typer.Argument(help="Images, masks or labels; of a folder, all in it.")],
    by: Annotated[str, typer.Option("--by", help="Folder of register; a warp of it, of ANTs or of the Spinal Cord Toolbox; or a cohort store.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of one image (.nii.gz), or folder.")],
    to: Annotated[str | None, typer.Option("--to", help="template or image: which way, of a folder or a store.")] = None,
    onto: Annotated[Path | None, typer.Option("--onto", help="Image whose voxels the result lies on; by default the warp's grid.")] = None,
    interpolation: Annotated[
        str, typer.Option("--interpolation", help="nearest, linear, spline, labels (the number with most weight); auto: by the image's values.")
    ] = "auto",
    participant: Annotated[str | None, typer.Option("--participant", help="Of a store: whose template map.")] = None,
    session: Annotated[str | None, typer.Option("--session", help="Of a store: which session.")] = None,
    contrast: Annotated[str, typer.Option("--contrast", help="Of a store: the map of which contrast.")] = "mt",
    template_path: TemplatePath = None,
) -> None:
    """Bring images from their space to the template, or from the template to an image."""
    from cohort_engine.single.warp import Subject, warp_images

    subject = None if participant is None else Subject(participant, contrast, session, template_path)
    done = warp_images(images, by, out, to=to, onto=onto, interpolation=interpolation, subject=subject)
    show({name: [getattr(row, name) for row in done] for name in ("file", "interpolation", "filled")}, str(out), digits=4)


def _found(segmentation: Any) -> None:
    slices = segmentation.slices
    say(f"cord in {len(slices)} slices, {slices[0]} to {slices[-1]} from the bottom" if len(slices) else "no slice with cord")
    for flag, meaning in segmentation.told().items():
        say(f": {meaning}", head=flag, colour="yellow")


@command()
def extract(
    metric: Annotated[Path, typer.Option("--metric", help="Image to reduce, for instance an MTR map.")],
    labels: Annotated[Path, typer.Option("--labels", help="SCT's label folder, warped to the image.")],
    estimator: Annotated[str, typer.Option("--estimator", help="One of {estimators}.", autocompletion=WORDS["estimators"])] = "map",
    levels: Annotated[str | None, typer.Option("--levels", help="C2:C5, or C3,C5.")] = None,
    slices: Annotated[str | None, typer.Option("--slices", help="3:8, or 3,5; counted from 0 at the bottom.")] = None,
    per: Annotated[
        str | None, typer.Option("--per", help="level, slice or all; by default all where levels or slices are chosen, else slice.")
    ] = None,
    regions: Annotated[list[str] | None, typer.Option("--regions", help="Name of a tract or union, a sum 'a + b', or all; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="CSV to write; by default it is printed.")] = None,
) -> None:
    """Reduce one image over atlas labels that lie on its grid: value, spread, standard error and coverage by region."""
    from cohort_engine.single.extract import extract as run

    table = run(metric, labels, estimator=estimator, levels=levels, slices=slices, per=per, regions=regions or ["all"])
    _table(table, out)
    require_values(
        table.columns, f"{estimator.upper()}()", why="no region that was asked for has a voxel with a number; Coverage says how much of it has"
    )


@command()
def rois(
    out: Annotated[Path, typer.Option("--out", "-o", help="Image of the regions' numbers to write, 1 to 8, on the voxels of FA.")],
    fa: Annotated[Path, typer.Option("--fa", help="FA map.")],
    mask: Annotated[Path, typer.Option("--mask", help="Cord mask on its voxels.")],
    b0: Annotated[Path | None, typer.Option("--b0", help="Mean image without diffusion weighting (or S0), on its voxels.")] = None,
    md: Annotated[Path | None, typer.Option("--md", help="MD map.")] = None,
    ad: Annotated[Path | None, typer.Option("--ad", help="AD map.")] = None,
    rd: Annotated[Path | None, typer.Option("--rd", help="RD map.")] = None,
    source: Annotated[str, typer.Option("--source", help="network, or atlas: cores of its parts.")] = "network",
    drawn: Annotated[
        list[Path] | None, typer.Option("--drawn", help="What people drew goes first: an image of numbers, masks, or outlines of ImageJ.")
    ] = None,
    labels: Annotated[Path | None, typer.Option("--labels", help="Label folder on its voxels (command register): for the atlas and levels.")] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="Of another network than the packaged one.")] = None,
    per: Annotated[str, typer.Option("--per", help="slice, level or all.")] = "slice",
    table: Annotated[Path | None, typer.Option("--table", help="CSV of the maps' means to write; by default it is printed.")] = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="PNG of all slices with the regions' borders to write.")] = None,
    device: Device = "auto",
) -> None:
    """Draw left and right dorsal, lateral and ventral columns and grey matter in diffusion maps, and average the maps over them."""
    from cohort_engine import schema
    from cohort_engine.single.rois import rois_image

    given = {schema.FA: fa, schema.B0_IMAGE: b0, schema.MD: md, schema.AD: ad, schema.RD: rd}
    found = rois_image(
        {name: path for name, path in given.items() if path is not None}, out, mask=mask, source=source, drawn=drawn or (), labels=labels,
        weights=weights, device=device, per=per,
    )  # fmt: skip
    _table(found.table, table)
    if picture is not None:
        from cohort_engine.figures.drawing import render
        from cohort_engine.report.roi_figures import draw_scan

        picture.write_bytes(render(draw_scan(found.slices).figure, "png"))


@command()
def shape(
    mask: Annotated[Path, typer.Argument(help="Cord mask, soft or binary.")],
    levels: Annotated[Path | None, typer.Option("--levels", help="Landmarks: point labels, or a mask labelled by level.")] = None,
    kind: Annotated[str, typer.Option("--kind", help="disc: point n lies above vertebra n (3 = C2/C3); body: point n is vertebra n; auto.")] = "auto",
    per: Annotated[str, typer.Option("--per", help="slice or level.")] = "slice",
    pam50: Annotated[bool, typer.Option("--pam50", help="Along the template's z axis, slice numbers and all.")] = False,
    template: TemplateName = "PAM50",
    template_path: TemplatePath = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="CSV to write; by default it is printed.")] = None,
) -> None:
    """Measure the cord of one mask: area, diameters, form, tilt and symmetry by slice or level."""
    from cohort_engine.single.morphometry import shape as run
    from cohort_engine.template import load_heights

    reference = load_heights(template, path=template_path) if levels is not None else None
    table = run(mask, levels, kind=kind, per=per, template=reference, normalise=pam50)
    for text in table.notes:
        note(text)
    _table(table, out)
    require_values(table.columns, "MEAN(area)", why="no slice that was asked for has a cord that can be measured")


def _table(table: Any, out: Path | None) -> None:
    """Print a table as CSV, or write it."""
    if out is None:
        plain(table.csv())
    else:
        table.write(out)
