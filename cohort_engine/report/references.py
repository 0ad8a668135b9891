"""The works that a Methods section may cite, each with its DOI, and the numbering of those that it does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cohort_engine.config import STAGE_KINDS

CITED = re.compile(r" ?\[@([a-z0-9, @]+)\]")
"""Place of a citation in a text: ``[@delong]``, or ``[@delong, @sun]``."""


@dataclass(frozen=True)
class Reference:
    """A work: authors, title and place of publication; and its DOI."""

    text: str
    doi: str

    def __str__(self) -> str:
        return f"{self.text} doi:{self.doi}"


REFERENCES: Mapping[str, Reference] = {
    "pam50": Reference(
        "De Leener B, Fonov VS, Collins DL, et al. PAM50: Unbiased multimodal template of the brainstem and spinal cord aligned with the ICBM152 "
        "space. NeuroImage 2018;165:170-179.", "10.1016/j.neuroimage.2017.10.041"),
    "levy": Reference(
        "Lévy S, Benhamou M, Naaman C, et al. White matter atlas of the human spinal cord with estimation of partial volume effect. NeuroImage "
        "2015;119:262-271.", "10.1016/j.neuroimage.2015.06.040"),
    "sct": Reference(
        "De Leener B, Lévy S, Dupont SM, et al. SCT: Spinal Cord Toolbox, an open-source software for processing spinal cord MRI data. NeuroImage "
        "2017;145:24-43.", "10.1016/j.neuroimage.2016.10.009"),
    "valosek": Reference(
        "Valošek J, Bédard S, Keřkovský M, et al. A database of the healthy human spinal cord morphometry in the PAM50 template space. Imaging "
        "Neuroscience 2024;2:1-15.", "10.1162/imag_a_00075"),
    "syn": Reference(
        "Avants BB, Epstein CL, Grossman M, Gee JC. Symmetric diffeomorphic image registration with cross-correlation. Medical Image Analysis "
        "2008;12:26-41.", "10.1016/j.media.2007.06.004"),
    "demons": Reference(
        "Vercauteren T, Pennec X, Perchant A, Ayache N. Symmetric log-domain diffeomorphic registration: a demons-based approach. Medical Image "
        "Computing and Computer-Assisted Intervention 2008;11:754-761.", "10.1007/978-3-540-85988-8_90"),
    "henkelman": Reference(
        "Henkelman RM, Stanisz GJ, Graham SJ. Magnetization transfer in MRI: a review. NMR in Biomedicine 2001;14:57-64.", "10.1002/nbm.683"),
    "billot": Reference(
        "Billot B, Greve DN, Puonti O, et al. SynthSeg: Segmentation of brain MRI scans of any contrast and resolution without retraining. Medical "
        "Image Analysis 2023;86:102789.", "10.1016/j.media.2023.102789"),
    "gros": Reference(
        "Gros C, De Leener B, Dupont SM, et al. Automatic spinal cord localization, robust to MRI contrasts using global curve optimization. "
        "Medical Image Analysis 2018;44:215-227.", "10.1016/j.media.2017.12.001"),
    "rabiner": Reference(
        "Rabiner LR. A tutorial on hidden Markov models and selected applications in speech recognition. Proceedings of the IEEE "
        "1989;77:257-286.", "10.1109/5.18626"),
    "combat": Reference(
        "Johnson WE, Li C, Rabinovic A. Adjusting batch effects in microarray expression data using empirical Bayes methods. Biostatistics "
        "2007;8:118-127.", "10.1093/biostatistics/kxj037"),
    "fortin": Reference(
        "Fortin JP, Cullen N, Sheline YI, et al. Harmonization of cortical thickness measurements across scanners and sites. NeuroImage "
        "2018;167:104-120.", "10.1016/j.neuroimage.2017.11.024"),
    "welch": Reference(
        "Welch BL. The generalization of 'Student's' problem when several different population variances are involved. Biometrika 1947;34:28-35.",
        "10.1093/biomet/34.1-2.28"),
    "hedges": Reference(
        "Hedges LV. Distribution theory for Glass's estimator of effect size and related estimators. Journal of Educational Statistics "
        "1981;6:107-128.", "10.3102/10769986006002107"),
    "viechtbauer": Reference(
        "Viechtbauer W. Bias and efficiency of meta-analytic variance estimators in the random-effects model. Journal of Educational and Behavioral "
        "Statistics 2005;30:261-293.", "10.3102/10769986030003261"),
    "mackinnon": Reference(
        "MacKinnon JG, White H. Some heteroskedasticity-consistent covariance matrix estimators with improved finite sample properties. Journal of "
        "Econometrics 1985;29:305-325.", "10.1016/0304-4076(85)90158-7"),
    "mann": Reference(
        "Mann HB, Whitney DR. On a test of whether one of two random variables is stochastically larger than the other. Annals of Mathematical "
        "Statistics 1947;18:50-60.", "10.1214/aoms/1177730491"),
    "dersimonian": Reference(
        "DerSimonian R, Laird N. Meta-analysis in clinical trials. Controlled Clinical Trials 1986;7:177-188.", "10.1016/0197-2456(86)90046-2"),
    "fdr": Reference(
        "Benjamini Y, Hochberg Y. Controlling the false discovery rate: a practical and powerful approach to multiple testing. Journal of the Royal "
        "Statistical Society B 1995;57:289-300.", "10.1111/j.2517-6161.1995.tb02031.x"),
    "delong": Reference(
        "DeLong ER, DeLong DM, Clarke-Pearson DL. Comparing the areas under two or more correlated receiver operating characteristic curves: a "
        "nonparametric approach. Biometrics 1988;44:837-845.", "10.2307/2531595"),
    "sun": Reference(
        "Sun X, Xu W. Fast implementation of DeLong's algorithm for comparing the areas under correlated receiver operating characteristic curves. "
        "IEEE Signal Processing Letters 2014;21:1389-1393.", "10.1109/LSP.2014.2337313"),
    "nichols": Reference(
        "Nichols TE, Holmes AP. Nonparametric permutation tests for functional neuroimaging: a primer with examples. Human Brain Mapping "
        "2002;15:1-25.", "10.1002/hbm.1058"),
    "newcombe": Reference(
        "Newcombe RG. Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2: asymptotic methods and "
        "evaluation. Statistics in Medicine 2006;25:559-573.", "10.1002/sim.2324"),
    "youden": Reference(
        "Youden WJ. Index for rating diagnostic tests. Cancer 1950;3:32-35.", "10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106>3.0.CO;2-3"),
    "efron": Reference(
        "Efron B. Estimating the error rate of a prediction rule: improvement on cross-validation. Journal of the American Statistical Association "
        "1983;78:316-331.", "10.1080/01621459.1983.10477973"),
    "airola": Reference(
        "Airola A, Pahikkala T, Waegeman W, De Baets B, Salakoski T. An experimental comparison of cross-validation techniques for estimating the "
        "area under the ROC curve. Computational Statistics & Data Analysis 2011;55:1828-1844.", "10.1016/j.csda.2010.11.018"),
    "bates": Reference(
        "Bates S, Hastie T, Tibshirani R. Cross-validation: what does it estimate and how well does it do it? Journal of the American Statistical "
        "Association 2024;119:1434-1445.", "10.1080/01621459.2023.2197686"),
    "miyanji": Reference(
        "Miyanji F, Furlan JC, Aarabi B, Arnold PM, Fehlings MG. Acute cervical traumatic spinal cord injury: MR imaging findings correlated with "
        "neurologic outcome: prospective study with 100 consecutive patients. Radiology 2007;243:820-827.", "10.1148/radiol.2433060583"),
    "hyndman": Reference(
        "Hyndman RJ, Fan Y. Sample quantiles in statistical packages. The American Statistician 1996;50:361-365.", "10.1080/00031305.1996.10473566"),
    "rousseeuw": Reference(
        "Rousseeuw PJ. Silhouettes: a graphical aid to the interpretation and validation of cluster analysis. Journal of Computational and Applied "
        "Mathematics 1987;20:53-65.", "10.1016/0377-0427(87)90125-7"),
    "hennig": Reference(
        "Hennig C. Cluster-wise assessment of cluster stability. Computational Statistics & Data Analysis 2007;52:258-271.",
        "10.1016/j.csda.2006.11.025"),
    "hubert": Reference("Hubert L, Arabie P. Comparing partitions. Journal of Classification 1985;2:193-218.", "10.1007/BF01908075"),
    "liu": Reference(
        "Liu Y, Hayes DN, Nobel A, Marron JS. Statistical significance of clustering for high-dimension, low-sample size data. Journal of the "
        "American Statistical Association 2008;103:1281-1293.", "10.1198/016214508000000454"),
    "bonett": Reference(
        "Bonett DG, Wright TA. Sample size requirements for estimating Pearson, Kendall and Spearman correlations. Psychometrika 2000;65:23-28.",
        "10.1007/BF02294183"),
    "crawford": Reference(
        "Crawford JR, Howell DC. Comparing an individual's test score against norms derived from small samples. The Clinical Neuropsychologist "
        "1998;12:482-486.", "10.1076/clin.12.4.482.7241"),
    "shrout": Reference(
        "Shrout PE, Fleiss JL. Intraclass correlations: uses in assessing rater reliability. Psychological Bulletin 1979;86:420-428.",
        "10.1037/0033-2909.86.2.420"),
    "mcgraw": Reference(
        "McGraw KO, Wong SP. Forming inferences about some intraclass correlation coefficients. Psychological Methods 1996;1:30-46.",
        "10.1037/1082-989X.1.1.30"),
    "bland": Reference(
        "Bland JM, Altman DG. Measuring agreement in method comparison studies. Statistical Methods in Medical Research 1999;8:135-160.",
        "10.1177/096228029900800204"),
    "weir": Reference(
        "Weir JP. Quantifying test-retest reliability using the intraclass correlation coefficient and the SEM. Journal of Strength and Conditioning "
        "Research 2005;19:231-240.", "10.1519/15184.1"),
    "rigby": Reference(
        "Rigby RA, Stasinopoulos DM. Generalized additive models for location, scale and shape. Applied Statistics 2005;54:507-554.",
        "10.1111/j.1467-9876.2005.00510.x"),
    "jones": Reference("Jones MC, Pewsey A. Sinh-arcsinh distributions. Biometrika 2009;96:761-780.", "10.1093/biomet/asp053"),
    "laird": Reference("Laird NM, Ware JH. Random-effects models for longitudinal data. Biometrics 1982;38:963-974.", "10.2307/2529876"),
    "jacobson": Reference(
        "Jacobson NS, Truax P. Clinical significance: a statistical approach to defining meaningful change in psychotherapy research. Journal of "
        "Consulting and Clinical Psychology 1991;59:12-19.", "10.1037/0022-006X.59.1.12"),
    "altman": Reference("Bland JM, Altman DG. Measurement error proportional to the mean. BMJ 1996;313:106.", "10.1136/bmj.313.7049.106"),
}  # fmt: skip
"""Key -> work."""


def work(key: str) -> Reference:
    """Look a work up by its key: here, or among those that kinds of stages bring.

    Raises
    ------
    KeyError
        Nobody has it.
    """
    brought = {k: w for kind in STAGE_KINDS.values() for k, w in kind.references.items()}
    return REFERENCES[key] if key in REFERENCES else Reference(*brought[key])


def number(texts: Iterable[str]) -> tuple[list[str], list[Reference]]:
    """Replace keys by numbers in the order in which they are cited first, and list the works.

    Raises
    ------
    KeyError
        A key that nobody has.

    Examples
    --------
    >>> texts, works = number(["Tests were Welch's [@welch].", "Areas [@delong, @welch]."])
    >>> texts, [w.doi for w in works]
    (["Tests were Welch's [1].", 'Areas [1, 2].'], ['10.1093/biomet/34.1-2.28', '10.2307/2531595'])
    """
    order: dict[str, int] = {}

    def cite(match: re.Match[str]) -> str:
        keys = [k.strip(" @") for k in match[1].split(",")]
        numbers = sorted(order.setdefault(k, len(order) + 1) for k in keys)
        return f" [{', '.join(map(str, numbers))}]"

    numbered = [CITED.sub(cite, text) for text in texts]
    return numbered, [work(k) for k in order]
