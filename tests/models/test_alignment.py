"""The similarity transform and the crops that it cuts."""

import cv2
import numpy as np
import pytest
from photos import astronaut

from models.alignment import Points, Template, align, similarity_transform
from models.image import Pixels

SQUARE = Template("arcface", 112, 112)
# The face of the photo, read off it by eye: eyes, nose, mouth corners.
LANDMARKS = np.array([[205.0, 113.0], [245.0, 111.0], [229.0, 136.0], [212.0, 155.0], [246.0, 153.0]])


def _umeyama(source: Points, target: Points) -> Points:
    """Umeyama's least squares by singular values, with the sign that forbids mirror images; an independent oracle."""
    mean_s, mean_t = source.mean(axis=0), target.mean(axis=0)
    s, t = source - mean_s, target - mean_t
    u, values, vt = np.linalg.svd(t.T @ s / len(s))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = (values * sign).sum() / (s**2).sum() * len(s)
    return np.column_stack([scale * rotation, mean_t - scale * rotation @ mean_s])


def _apply(matrix: Points, points: Points) -> Points:
    return points @ matrix[:, :2].T + matrix[:, 2]


def _similarity(angle: float, scale: float, shift: tuple[float, float]) -> Points:
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]])


@pytest.mark.parametrize("seed", range(20))
def test_a_similarity_is_recovered_exactly_from_points_moved_by_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shift = (float(rng.normal(0, 500)), float(rng.normal(0, 500)))
    matrix = _similarity(rng.uniform(-np.pi, np.pi), rng.uniform(0.05, 20), shift)
    points = rng.normal(0, 100, (int(rng.integers(2, 9)), 2))
    np.testing.assert_allclose(similarity_transform(points, _apply(matrix, points)), matrix, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(30))
def test_noisy_points_give_umeyamas_least_squares(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    source = rng.normal(0, 50, (5, 2))
    target = _apply(_similarity(rng.uniform(-3, 3), rng.uniform(0.2, 5), (30, -20)), source) + rng.normal(0, 4, (5, 2))
    ours, oracle = similarity_transform(source, target), _umeyama(source, target)
    np.testing.assert_allclose(ours, oracle, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_points_that_are_mirrored_are_matched_by_a_rotation_and_not_by_a_mirror(seed: int) -> None:
    rng = np.random.default_rng(200 + seed)
    source = rng.normal(0, 50, (5, 2))
    matrix = similarity_transform(source, source * [-1, 1] + 7)
    assert np.linalg.det(matrix[:, :2]) > 0
    np.testing.assert_allclose(matrix, _umeyama(source, source * [-1, 1] + 7), rtol=1e-9, atol=1e-9)


def test_the_result_has_no_shear_and_one_scale() -> None:
    rng = np.random.default_rng(5)
    linear = similarity_transform(rng.normal(size=(5, 2)), rng.normal(size=(5, 2)))[:, :2]
    np.testing.assert_allclose(linear.T @ linear, np.eye(2) * (linear[0] ** 2).sum(), atol=1e-12)


def test_no_similarity_near_the_result_fits_better() -> None:
    rng = np.random.default_rng(6)
    target = SQUARE.points
    best = similarity_transform(LANDMARKS, target)

    def error(matrix: Points) -> float:
        return float(((_apply(matrix, LANDMARKS) - target) ** 2).sum())

    angle, scale = np.arctan2(best[1, 0], best[0, 0]), np.hypot(best[0, 0], best[1, 0])
    for change in rng.normal(0, 1e-3, (50, 4)):
        other = _similarity(
            angle + change[0], scale * (1 + change[1]), (best[0, 2] + change[2], best[1, 2] + change[3])
        )
        assert error(other) > error(best)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_landmarks_that_are_not_finite_are_refused(value: float) -> None:
    broken = LANDMARKS.copy()
    broken[3, 1] = value
    with pytest.raises(ValueError, match="finite"):
        similarity_transform(broken, SQUARE.points)
    with pytest.raises(ValueError, match="finite"):
        align(astronaut(), broken, SQUARE)
    with pytest.raises(ValueError, match="finite"):
        similarity_transform(LANDMARKS, broken)


@pytest.mark.parametrize("place", [0.0, 250.0, -1e6])
def test_landmarks_that_coincide_are_refused(place: float) -> None:
    with pytest.raises(ValueError, match="coincide"):
        align(astronaut(), np.full((5, 2), place), SQUARE)


def test_the_square_template_is_the_published_one() -> None:
    published = [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
    np.testing.assert_allclose(SQUARE.points, published, atol=1e-12)


def test_the_narrow_template_is_the_published_one() -> None:
    published = [
        (30.2946, 51.6963),
        (65.5318, 51.5014),
        (48.0252, 71.7366),
        (33.5493, 92.3655),
        (62.7299, 92.2041),
    ]
    np.testing.assert_allclose(Template("sphereface", 96, 112).points, published, atol=1e-12)


def test_a_larger_crop_of_the_same_shape_scales_the_template() -> None:
    np.testing.assert_allclose(Template("arcface", 224, 224).points, 2 * SQUARE.points)
    np.testing.assert_allclose(Template("sphereface", 48, 56).points, Template("sphereface", 96, 112).points / 2)


@pytest.mark.parametrize(
    ("name", "width", "height"), [("arcface", 96, 112), ("sphereface", 112, 112), ("arcface", 112, 111)]
)
def test_a_template_of_another_shape_is_refused(name: str, width: int, height: int) -> None:
    with pytest.raises(ValueError, match="shape"):
        Template(name, width, height)


def test_an_unknown_template_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(ValueError, match="known: sphereface, arcface"):
        Template("dlib", 112, 112)


def _dots(points: Points, radius: int, shape: tuple[int, int]) -> Pixels:
    image = np.zeros((*shape, 3), np.uint8)
    for x, y in points:
        # Four more binary digits of place than whole pixels.
        cv2.circle(image, (round(x * 16), round(y * 16)), radius * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    return image


def _centres(crop: Pixels, near: Points) -> Points:
    """Centre of light around each expected place."""
    weight = crop[..., 0].astype(np.float64)
    rows, columns = np.mgrid[0 : crop.shape[0], 0 : crop.shape[1]]
    found = []
    for x, y in near:
        mask = weight * (np.hypot(columns - x, rows - y) < 8)
        assert mask.sum() > 0, f"no dot near {x}, {y}"
        found.append(((columns * mask).sum() / mask.sum(), (rows * mask).sum() / mask.sum()))
    return np.array(found)


@pytest.mark.parametrize("template", [SQUARE, Template("sphereface", 96, 112), Template("arcface", 224, 224)])
@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.5, 0.7), (-2.8, 1.9), (1.2, 3.3), (0.1, 6.0), (0.0, 0.6)])
def test_landmarks_land_on_the_template(template: Template, angle: float, scale: float) -> None:
    """Dots drawn on a photo at places that are a similarity of the template are found where the template says."""
    size = 1200
    away = _similarity(angle, scale * 112 / template.height, (0, 0))
    points = _apply(away, template.points - template.points.mean(axis=0)) + size / 2 + [0.3, -0.4]
    crop = align(_dots(points, max(2, round(2.5 * scale)), (size, size)), points, template)
    assert crop.shape == (template.height, template.width, 3)
    np.testing.assert_allclose(_centres(crop, template.points), template.points, atol=0.3)


def test_a_photo_enlarged_four_times_gives_nearly_the_same_crop() -> None:
    photo = astronaut()
    large = cv2.resize(photo, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    # Pixel centres: the middle of pixel 0 of the photo is at 1.5 of the large one.
    small_crop = align(photo, LANDMARKS, SQUARE).astype(int)
    large_crop = align(large, LANDMARKS * 4 + 1.5, SQUARE).astype(int)
    assert np.abs(small_crop - large_crop).mean() < 2
    assert small_crop.std() > 20


def test_detail_finer_than_the_crop_is_averaged_and_does_not_alias() -> None:
    # A chequerboard of single pixels, cut at an eighth: sampled without averaging it would be any pattern of 0 and 255.
    board = np.indices((1200, 1200)).sum(axis=0) % 2 * 255
    photo = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    points = (SQUARE.points - 56) * 8.3 + 600
    crop = align(photo, points, SQUARE)
    np.testing.assert_allclose(crop, 127.5, atol=20)


@pytest.mark.parametrize("scale", [1.0, 1.9, 2.1, 3.0, 4.9, 9.0])
def test_a_ramp_of_light_is_cut_without_a_shift_at_every_reduction(scale: float) -> None:
    """A ramp shows any half pixel that the reduction forgets: its crop is the ramp at the template's places."""
    size = int(130 * scale) + 40
    slope = 235 / size  # 1.8 grey levels a pixel of the crop
    # Dithered, so that a mean over rows tells tenths of a grey level.
    noise = np.random.default_rng(8).random((size, size))
    photo = np.repeat((10 + np.arange(size) * slope + noise)[..., None], 3, axis=2).astype(np.uint8)
    start = size / 2 - 56 * scale
    crop = align(photo, _apply(_similarity(0.0, scale, (start, start)), SQUARE.points), SQUARE)
    error = crop[..., 0].mean(axis=0) - (10 + (np.arange(112) * scale + start) * slope)
    assert np.abs(error).max() < 1  # what rounding to whole grey levels twice can add up to
    assert abs(error.mean()) < 0.3  # half a pixel of the photo, forgotten, is 0.4 and more


@pytest.mark.parametrize("shift", [(-150, 0), (300, 0), (0, -110), (0, 420), (-170, -90)])
def test_a_face_partly_outside_the_photo_gives_a_crop_that_is_black_there(shift: tuple[int, int]) -> None:
    crop = align(astronaut(), LANDMARKS + shift, SQUARE)
    assert crop.shape == (112, 112, 3)
    assert crop.any()
    # Inside, the crop is what it would be with the photo on a larger black sheet.
    sheet = cv2.copyMakeBorder(astronaut(), 600, 600, 600, 600, cv2.BORDER_CONSTANT)
    np.testing.assert_allclose(crop.astype(int), align(sheet, LANDMARKS + shift + 600, SQUARE), atol=2)


@pytest.mark.parametrize("factor", [1.0, 10.0])
@pytest.mark.parametrize("shift", [(-5000, 0), (5000, 5000), (0, 1e7), (-1e12, 3)])
def test_a_face_wholly_outside_the_photo_gives_a_black_crop(shift: tuple[float, float], factor: float) -> None:
    crop = align(astronaut(), LANDMARKS * factor + shift, SQUARE)
    assert crop.shape == (112, 112, 3)
    assert crop.dtype == np.uint8
    assert not crop.any()


@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e4, 1e7])
def test_landmarks_of_any_spread_give_a_crop(spread: float) -> None:
    crop = align(astronaut(), 256 + (LANDMARKS - LANDMARKS.mean(axis=0)) / 40 * spread, SQUARE)
    assert crop.shape == (112, 112, 3)


def test_a_photo_that_may_not_be_written_to_is_cut_and_left_as_it_is() -> None:
    photo = astronaut().copy()
    photo.flags.writeable = False
    before = photo.copy()
    align(photo, LANDMARKS, SQUARE)
    np.testing.assert_array_equal(photo, before)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 3)])
def test_a_tiny_photo_gives_a_crop(shape: tuple[int, int]) -> None:
    photo = np.full((*shape, 3), 200, np.uint8)
    assert align(photo, LANDMARKS - [200, 100], SQUARE).shape == (112, 112, 3)
    assert align(photo, (LANDMARKS - [200, 100]) * 8, SQUARE).shape == (112, 112, 3)


def test_the_same_face_turned_with_its_photo_gives_nearly_the_same_crop() -> None:
    photo = astronaut()
    turned = np.ascontiguousarray(np.rot90(photo, -1))
    points = np.column_stack([photo.shape[0] - 1 - LANDMARKS[:, 1], LANDMARKS[:, 0]])
    difference = align(photo, LANDMARKS, SQUARE).astype(int) - align(turned, points, SQUARE)
    assert np.abs(difference).mean() < 0.5
