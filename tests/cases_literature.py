"""Cases from papers on the matrix exponential and on nonnormal matrices.

Matrices are those printed in the papers named; most were collected as tests by Al-Mohy and Higham (2009) and
by Fasi and Higham (2019). Times are chosen where each is interesting and nothing overflows.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg

from tests import case_builders as build
from tests.case_builders import Case, direct_sum, generator, jordan, make_case, rotated

SHORT = [0.0, 0.3, 1.0, 2.0, 5.0]
UNIT = [0.1, 0.5, 1.0]
WARD = "Ward (1977), SIAM J. Numer. Anal. 14(4), test "
MVL = "Moler & Van Loan (1978), SIAM Review 20(4)"
KENNEY_LAUB = "Kenney & Laub (1998), SIMAX 19(3)"
DIECI_PAPINI = "Dieci & Papini (2000), Linear Algebra Appl. 308"
AL_MOHY_HIGHAM = "Al-Mohy & Higham (2009), SIMAX 31(3)"
PARLETT_NG = "Parlett & Ng (1985), Development of an accurate algorithm for exp(Bt)"
FASI_HIGHAM = "Fasi & Higham (2019), SIMAX 40(4), test matrices"
TREFETHEN = "Trefethen & Embree (2005), Spectra and Pseudospectra"
TOOLBOX = "Higham (1995), The Test Matrix Toolbox"
DECAY = "Moral & Pacheco (2003), Am. J. Phys. 71(7): decay chains"

WARD_2 = [
    [29.87942128909879, 0.7815750847907159, -2.289519314033932],
    [0.7815750847907159, 25.72656945571064, 8.680737820540137],
    [-2.289519314033932, 8.680737820540137, 34.39400925519054],
]
GODUNOV = [
    [289, 2064, 336, 128, 80, 32, 16],
    [1152, 30, 1312, 512, 288, 128, 32],
    [-29, -2000, 756, 384, 1008, 224, 48],
    [512, 128, 640, 0, 640, 512, 128],
    [1053, 2256, -504, -384, -756, 800, 208],
    [-287, -16, 1712, -128, 1968, -30, 2032],
    [-2176, -287, -1565, -512, -541, -1152, -289],
]
GALLERY_5 = [
    [-9, 11, -21, 63, -252],
    [70, -69, 141, -421, 1684],
    [-575, 575, -1149, 3451, -13801],
    [3891, -3891, 7782, -23345, 93365],
    [1024, -1024, 2048, -6144, 24572],
]
PARLETT_NG_1 = [
    [0, 30, 1, 1, 1, 1],
    [-100, 0, 1, 1, 1, 1],
    [0, 0, 0, -6, 1, 1],
    [0, 0, 500, 0, 1, 1],
    [0, 0, 0, 0, 0, 200],
    [0, 0, 0, 0, -15, 0],
]


def ward_cases() -> list[Case]:
    forsythe = build.with_corner(jordan(10, 0.0), 1e-10)
    return [
        make_case("ward_1", "Ward", [[4, 2, 0], [1, 4, 1], [1, 1, 4]], [0, 0.3, 1, 2], WARD + "1: defective"),
        make_case("ward_2", "Ward", WARD_2, UNIT, WARD + "2: symmetric"),
        make_case("ward_3", "Ward", [[-131, 19, 18], [-390, 56, 54], [-387, 57, 52]], UNIT, WARD + "3"),
        make_case("ward_4", "Ward", forsythe, [0, 1, 5, 20], WARD + "4: Forsythe, corner 1e-10"),
    ]


def moler_van_loan_cases() -> list[Case]:
    kind = "Moler & Van Loan"
    badly_scaled = [[0, 1e-8, 0], [-(2e10 + 4e8 / 6), -3, 2e10], [200 / 3, 0, -200 / 3]]
    return [
        make_case("mvl_taylor_fails", kind, [[-49, 24], [-64, 31]], [0, 0.1, 1, 3], MVL + ", method 1"),
        make_case("mvl_taylor_fails_late", kind, [[-49, 24], [-64, 31]], [10, 20, 40], MVL + ", method 1"),
        make_case("mvl_hump", kind, [[-1, 4], [0, -2]], SHORT, MVL + ", figure 1: the hump"),
        make_case("mvl_large_hump", kind, [[-1, 1e6], [0, -3]], SHORT, "after " + MVL + ", figure 1"),
        make_case("mvl_spring", kind, [[0, 1], [-39, -40]], SHORT, "Burkardt's collection, test 3"),
        make_case("mvl_nilpotent", kind, 6 * np.eye(4, k=1), SHORT, "Burkardt's collection, test 5"),
        make_case(
            "moler_three",
            kind,
            [[21, 17, 6], [-5, -1, -6], [4, 4, 16]],
            UNIT,
            "Burkardt's collection, test 8: defective at 16",
        ),
        make_case(
            "nag_four",
            kind,
            [[1, 2, 2, 2], [3, 1, 1, 2], [3, 2, 1, 2], [3, 3, 3, 1]],
            SHORT,
            "Burkardt's collection, test 9",
        ),
        make_case(
            "moler_blog_badly_scaled",
            kind,
            badly_scaled,
            UNIT,
            "Moler (2012), A balancing act for the matrix exponential",
        ),
    ]


def kenney_laub_cases() -> list[Case]:
    kind = "Kenney & Laub"
    bidiagonal = np.diag([0.0, -3.8e3, -1, -5.5e6, -2.7e7]) + np.diag([3.8e3, 1, 5.5e6, 2.7e7], 1)
    schur_like = [[48, -49, 50, 49], [0, -2, 100, 0], [0, -1, -2, 1], [-50, 50, 50, -52]]
    return [
        make_case("kl_ex2", kind, [[0.1, 1e6], [0, 0.1]], SHORT, KENNEY_LAUB + ", example 2"),
        make_case("kl_ex3", kind, [[-1, 1e7], [0, -1e7]], [0, 1e-7, 1e-3, 1, 5], KENNEY_LAUB + ", example 3"),
        make_case("kl_p655", kind, bidiagonal, [0, 1e-6, 1e-3, 1], KENNEY_LAUB + ", p. 655"),
        make_case("kl_89_ex5", kind, [[0, 1e6], [0, 0]], SHORT, "Kenney & Laub (1989), SIMAX 10(2), example 5"),
        make_case("kl_89_p206", kind, schur_like, UNIT, "Kenney & Laub (1989), SIMAX 10(2), p. 206"),
        make_case("kl_stable_shear", kind, [[-1, 1e6], [0, -1]], SHORT, "after " + KENNEY_LAUB),
        make_case("kl_complex", kind, np.array([[-1 + 2j, 1e5], [0, -1 - 2j]]), SHORT, "after " + KENNEY_LAUB),
    ]


def dieci_papini_cases() -> list[Case]:
    kind = "Dieci & Papini"
    ones = np.ones((4, 4))
    cases = []
    for size in (1e2, 1e6):
        A = np.block([[1.3 * ones, size * ones], [0 * ones, -1.3 * ones]]) / 8
        cases.append(make_case(f"dieci_papini_3_10_{size:g}", kind, A, SHORT, DIECI_PAPINI + ", example 3.10"))
    rng = generator("dieci")
    A, B = rotated(rng, np.diag([-1.0, -1.1, -4.0])), build.real_jordan_pair(1, -0.5, 3.0)
    for size in (1e3, 1e8):
        Xi = np.block([[A, size * build.normal(rng, 3, 2)], [np.zeros((2, 3)), B]])
        cases.append(make_case(f"block_triangular_{size:g}", kind, Xi, SHORT, "after " + DIECI_PAPINI))
    return cases


def overscaling_cases() -> list[Case]:
    kind = "overscaling"
    cases = []
    for b in (1e1, 1e3, 1e5, 1e8):
        cases.append(make_case(f"overscaling_{b:g}", kind, [[1, b], [0, -1]], SHORT, AL_MOHY_HIGHAM + ", section 1"))
    rng = generator("overscaling")
    for n, size in ((4, 1e3), (4, 1e6), (8, 1e2), (8, 1e4)):
        A = np.diag(np.linspace(1, -1, n)) + size * np.triu(build.normal(rng, n, n), 1)
        cases.append(make_case(f"overscaling_triangle_{n}_{size:g}", kind, A, SHORT, "after " + AL_MOHY_HIGHAM))
    A = np.diag(np.linspace(-2, 0, 5)) + np.diag([1e5, 1e-5, 1e5, 1e-5], 1)
    cases.append(make_case("overscaling_alternating", kind, A, SHORT, "after " + AL_MOHY_HIGHAM))
    for b in (1e2, 1e4):
        A = np.array([[1 - b / 2, b / 2], [-b / 2, 1 + b / 2]])
        cases.append(make_case(f"al_mohy_rotated_{b:g}", kind, A, SHORT, "Al-Mohy, in " + FASI_HIGHAM))
    b, x = 1e2, 1e6
    A = np.array([[1 - b / 2, b / 2], [-b / 2, 1 + b / 2]])
    cases.append(
        make_case(
            "al_mohy_block",
            kind,
            np.block([[A, x * np.ones((2, 2))], [np.zeros((2, 2)), -A]]),
            UNIT,
            FASI_HIGHAM,
        )
    )
    A = np.array([[1 - 20 / 2, 20 / 2], [-(20**3) / 2, 1 + 20 / 2]])
    cases.append(make_case("al_mohy_growing", kind, A, UNIT, "Al-Mohy, in " + FASI_HIGHAM))
    cases.append(
        make_case("overscaling_complex", kind, np.array([[1j, 1e6], [0, -1j]]), SHORT, "after " + AL_MOHY_HIGHAM)
    )
    cases.append(make_case("overscaling_1e17", kind, [[1, 1e17], [0, 1]], UNIT, "Al-Mohy, in " + FASI_HIGHAM))
    return cases


def nonnormal_cases() -> list[Case]:
    kind = "nonnormal"
    n = 9
    T = np.triu(np.ones((n, n)), 1)
    pang_2 = T + np.diag(1j * np.arange(-4, 5)) + np.diag(-2.0 * n + 4 * np.arange(1, n) - 1, 1)
    pang_3 = np.diag(np.ones(n - 1), 1) + np.diag(np.arange(-4.0, 5))
    laplace_like = build.toeplitz_band(12, a1=1.0, b0=-1.0, c1=-0.25)
    flag = build.toeplitz_band(10, a2=1j, a1=0.0, b0=0.0, c1=0.0, c2=1.0, c3=-0.7)
    limacon = build.toeplitz_band(12, b0=-1.5, a1=1.0, a2=1.0)
    return [
        make_case("grcar_8", kind, build.grcar(8), [0, 0.5, 1, 3, 8], TREFETHEN),
        make_case("grcar_16_negative", kind, -build.grcar(16), [0, 1, 5, 20], TREFETHEN),
        make_case("frank_6", kind, build.frank(6), [0.1, 0.5, 1, 3], TOOLBOX + ": Frank"),
        make_case("frank_10_negative", kind, -build.frank(10), SHORT, TOOLBOX + ": Frank"),
        make_case("kahan_8", kind, build.kahan(8), SHORT, TREFETHEN),
        make_case("kahan_12_negative", kind, -build.kahan(12, 0.8), SHORT, TREFETHEN),
        make_case("toeplitz_tridiagonal_12", kind, laplace_like, [0, 1, 10, 40], TREFETHEN),
        make_case("toeplitz_scottish_flag_10", kind, flag, SHORT, "after " + TREFETHEN + ": Scottish flag"),
        make_case("toeplitz_limacon_12", kind, limacon, [0, 1, 5, 20], TREFETHEN + ", section 7"),
        make_case(
            "toeppen_8",
            kind,
            build.toeplitz_band(8, a2=1, a1=10, b0=0, c1=-10, c2=1),
            UNIT,
            TOOLBOX + ": toeppen",
        ),
        make_case(
            "trefethen_transient",
            kind,
            10 * np.array([[0, 1, 2], [-0.01, 0, 3], [0, 0, 0]]),
            SHORT,
            TREFETHEN + ", (14.17)",
        ),
        make_case("lesp_8", kind, build.lesp(8), [0, 0.1, 1, 3], TOOLBOX + ": lesp"),
        make_case("chebspec_8", kind, build.chebspec(8), [0.1, 1, 3], TOOLBOX + ": chebspec"),
        make_case("gallery_3", kind, [[-149, -50, -154], [537, 180, 546], [-27, -9, -25]], UNIT, "MATLAB gallery(3)"),
        make_case("gallery_5", kind, GALLERY_5, [1e-3, 0.1, 1], "MATLAB gallery(5): nilpotent, Golub & Wilkinson"),
        make_case("godunov_7", kind, np.array(GODUNOV) / 100, [0.1, 0.5, 1], "Godunov (1998); EigTool demo"),
        make_case("parlett_ng_1", kind, PARLETT_NG_1, [0.01, 0.1, 1], PARLETT_NG + ", example I"),
        make_case("parlett_ng_2", kind, pang_2, [0.1, 0.5, 1], PARLETT_NG + ", example II"),
        make_case("parlett_ng_3", kind, pang_3, UNIT, PARLETT_NG + ", example III"),
        make_case("smoke_8", kind, build.smoke(8), SHORT, TOOLBOX + ": smoke"),
        make_case("clement_8", kind, build.clement(8), UNIT, TOOLBOX + ": clement"),
        make_case("hanowa_8", kind, build.hanowa(8), SHORT, TOOLBOX + ": hanowa"),
        make_case("triangle_of_ones_10", kind, -np.triu(np.ones((10, 10))), SHORT, TOOLBOX + ": triw"),
    ]


def higham_fasi_cases() -> list[Case]:
    kind = "Fasi & Higham"
    najfeld = np.array([[1.0, 10, 100], [1, 9, 100], [1, 11, 99]])
    najfeld = najfeld @ np.diag([0.001, 1, 100]) @ np.linalg.inv(najfeld)
    mixed = direct_sum(*(jordan(i, float(i)) for i in range(1, 5)))
    companions = direct_sum(build.companion([-1] * 4), build.companion([-1.1] * 3))
    triw = np.triu(np.full((4, 4), 2.0**30), 1) / 1e4 - np.diag([16.0, 16, 1, 1]) / 1e4
    trefoil = linalg.toeplitz([16 - 3j, (4 + 3j) / 8, 0, 0, 0, 0], [16 - 3j, -5, 0, 0, 0, 0])
    lam = 1e4j
    mu = (-1 + np.sqrt(1 + 4 * lam)) / 2
    niesen = np.array([[0, 1], [lam, -1]]) - mu * np.eye(2)
    rates = np.log(2) / (np.array([3.8235 * 60 * 24, 3.10, 26.8, 19.9]) / 60)
    kase = [
        4.916e-18,
        3.329e-7,
        8.983e-14,
        2.852e-13,
        1.373e-11,
        2.098e-6,
        9.850e-10,
        1.601e-6,
        5.796e-8,
        0.0,
    ]
    a1, a2 = 0.01145, 0.2270
    iodine = [[-a1, 0, 0], [0.3594 * a1, -a2, 0], [0.6406 * a1, a2, 0]]
    lara = [[-2.421897905520424e-03, 0, 5.383443102348909e-03], [0, -3.200125487349701e-04, 0]]
    lara.append([0, 3.200125487349701e-04, -5.398342527725431e-03])
    return [
        make_case("najfeld_havel", kind, najfeld, UNIT, "Najfeld & Havel (1995), Adv. Appl. Math. 16, p. 370"),
        make_case("jordan_1_to_4", kind, mixed, UNIT, FASI_HIGHAM),
        make_case("companion_close_quartic_cubic", kind, companions, SHORT, "Kagstrom (1977), matrix F"),
        make_case("davies_higham_triw", kind, triw, UNIT, "Davies & Higham (2003), SIMAX 25(2), example 3, reduced"),
        make_case("toeplitz_complex_6", kind, trefoil, UNIT, FASI_HIGHAM),
        make_case(
            "nearly_equal_rank_one",
            kind,
            [[1, 1, 1], [1, 1, 1 + 2e-15], [1, 1, 1 + 2e-14]],
            SHORT,
            FASI_HIGHAM,
        ),
        make_case("two_scales_off_diagonal", kind, [[1, 1e3], [1e3, 1]], [0, 0.01, 0.1, 0.3], FASI_HIGHAM),
        make_case("niesen_complex", kind, niesen, [0, 0.01, 0.1, 1], "Niesen, in " + AL_MOHY_HIGHAM),
        make_case("decay_radon", kind, build.decay_chain(rates), [0, 0.01, 0.3, 1, 24], DECAY),
        make_case("decay_iodine", kind, iodine, [0, 10, 100, 1e3], DECAY),
        make_case(
            "decay_uranium_seconds",
            kind,
            build.decay_chain(kase),
            [1, 1e5, 1e8, 1e12],
            FASI_HIGHAM + ": decay chain",
        ),
        make_case(
            "burnup_benchmark_3",
            kind,
            lara,
            [0, 1e2, 1e3, 1e4],
            "Lago & Rahnema (2017), burnup benchmark 3",
        ),
    ]


def companion_cases() -> list[Case]:
    kind = "companion"
    chebyshev = -1 + np.cos((np.arange(8) + 0.5) * np.pi / 8)
    unity = np.exp(2j * np.pi * np.arange(1, 7) / 7) - 0.5
    toh = "Toh & Trefethen (1994), Numer. Math. 68: companion matrices"
    return [
        make_case(
            "companion_wilkinson_6",
            kind,
            build.companion(-np.arange(1.0, 7)),
            SHORT,
            "Wilkinson (1959), Numer. Math. 1",
        ),
        make_case(
            "companion_wilkinson_10",
            kind,
            build.companion(-np.arange(1.0, 11)),
            UNIT,
            "Wilkinson (1959), Numer. Math. 1",
        ),
        make_case(
            "companion_wilkinson_tenth",
            kind,
            build.companion(-np.arange(1.0, 9) / 10),
            SHORT,
            "Wilkinson (1959), Numer. Math. 1, scaled",
        ),
        make_case("companion_chebyshev_8", kind, build.companion(chebyshev), SHORT, toh),
        make_case("companion_repeated_5", kind, build.companion([-1.0] * 5), SHORT, "(x + 1)^5"),
        make_case("phase_variables_repeated_4", kind, build.controllable([-2.0, -2, -2, -2]), SHORT, "(x + 2)^4"),
        make_case(
            "phase_variables_butterworth",
            kind,
            build.controllable(5 * unity).real,
            SHORT,
            "a filter's state space",
        ),
        make_case(
            "companion_complex_4",
            kind,
            build.companion([1j, 1j, -2 + 1j, -0.5]),
            SHORT,
            "complex, one double root",
        ),
    ]


def literature_cases() -> list[Case]:
    return [
        *ward_cases(),
        *moler_van_loan_cases(),
        *kenney_laub_cases(),
        *dieci_papini_cases(),
        *overscaling_cases(),
        *nonnormal_cases(),
        *higham_fasi_cases(),
        *companion_cases(),
    ]
