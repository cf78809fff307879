"""Guards of dgnet.quality: distances with known answers, limits of SSIM, masks, ratios, and refusals."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F


@pytest.fixture(scope="module")
def q():
    from dgnet import quality
    return quality


def photos(n, seed=0, height=64, width=32, cells=8):
    "Blobs of colour with some fine texture: enough structure for a distance to see."
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, cells, cells // 2, generator=g)
    x = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    x = x + 0.15 * (torch.rand(n, 3, height, width, generator=g) - 0.5)
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def random_gaussian(q, d, seed):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(d, d, generator=g, dtype=torch.float64)
    mean, eye = torch.randn(d, generator=g, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    return q.Gaussian(mean, a @ a.T / d + 0.1 * eye, 1000)

# --- SSIM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", ["gaussian", "uniform"])
def test_ssim_limits(q, window):
    x = photos(6).float() / 255
    torch.testing.assert_close(q.ssim(x, x, window), torch.ones(6))
    torch.testing.assert_close(q.dssim(x, x, window), torch.zeros(6))
    torch.testing.assert_close(q.ssim(x, x.flip(0), window), q.ssim(x.flip(0), x, window))
    assert (q.ssim(x, 1 - x, window) < 0).all() and (q.dssim(x, 1 - x, window) > 0.5).all()


def test_ssim_of_two_flat_images_is_the_luminance_term(q):
    a, b = 0.2, 0.8
    x, y = torch.full((1, 3, 32, 16), a), torch.full((1, 3, 32, 16), b)
    want = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert q.ssim(x, y).item() == pytest.approx(want, abs=1e-4)


def test_ssim_by_hand_in_one_pixel(q):
    "The middle pixel of an 11 × 11 picture, worked out from the published formula."
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 11, 11, generator=g, dtype=torch.float64)
    r = torch.arange(11, dtype=torch.float64) - 5
    w = torch.exp(-r ** 2 / (2 * 1.5 ** 2))
    w = torch.outer(w, w) / torch.outer(w, w).sum()
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy, vxy = (w * x * x).sum() - mx ** 2, (w * y * y).sum() - my ** 2, (w * x * y).sum() - mx * my
    want = (2 * mx * my + 1e-4) * (2 * vxy + 9e-4) / ((mx ** 2 + my ** 2 + 1e-4) * (vx + vy + 9e-4))
    from torchmetrics.functional.image import structural_similarity_index_measure as metric
    _, full = metric(x.float()[None, None], y.float()[None, None], data_range=1.0, return_full_image=True)
    assert full[0, 0, 5, 5].item() == pytest.approx(want.item(), abs=1e-4)


def test_pairs_stay_within_a_person_and_follow_the_seed(q):
    ids = np.array([3, 3, 3, 8, 9, 9])
    pairs = q.same_person_pairs(ids, n_pairs=10, seed=4)
    assert len(pairs.i) == 20, "person 8 has one image, hence no pair"
    assert (ids[pairs.i] == ids[pairs.j]).all() and (pairs.i != pairs.j).all()
    again = q.same_person_pairs(ids, n_pairs=10, seed=4)
    assert torch.equal(pairs.i, again.i) and torch.equal(pairs.j, again.j)


def test_paper_protocol_counts_37550_pairs(q):
    ids = np.repeat(np.arange(751), 3)
    assert 5 * len(q.same_person_pairs(ids, n_pairs=10).i) == 37_550


def test_diversity_limits(q):
    ids = np.repeat(np.arange(4), 3)
    same = photos(4).repeat_interleave(3, 0)
    assert q.diversity(same, ids).dssim == pytest.approx(0, abs=1e-6)
    varied = q.diversity(photos(12), ids, n_passes=3)
    assert varied.n_pairs == 120 and len(varied.passes) == 3
    assert varied.ssim == pytest.approx(1 - 2 * varied.dssim)
    assert min(varied.passes) <= varied.middle <= max(varied.passes)
    with pytest.raises(ValueError, match="no person has two images"):
        q.diversity(photos(3), np.arange(3))

# --- Fréchet distance -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 5, 64])
def test_frechet_of_a_gaussian_with_itself_is_zero(q, d):
    p = random_gaussian(q, d, seed=d)
    assert q.frechet_distance(p, p) == pytest.approx(0, abs=1e-9 * d)


def test_frechet_closed_forms(q):
    eye = torch.eye(7, dtype=torch.float64)
    shift = torch.arange(7, dtype=torch.float64)
    same_shape = q.frechet_distance(q.Gaussian(torch.zeros_like(shift), eye, 100), q.Gaussian(shift, eye, 100))
    assert same_shape == pytest.approx(91.0)                     # |μ|² = 0 + 1 + 4 + 9 + 16 + 25 + 36
    a, b = torch.rand(2, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    commuting = q.frechet_distance(q.Gaussian(0 * a, a.square().diag(), 100), q.Gaussian(0 * a, b.square().diag(), 100))
    assert commuting == pytest.approx((a - b).square().sum().item())  # diagonal covariances: Σ (σ₁ − σ₂)²
    one = q.frechet_distance(q.Gaussian(a[:1], (a[:1] ** 2)[None], 100), q.Gaussian(b[:1], (b[:1] ** 2)[None], 100))
    assert one == pytest.approx(2 * (a[0] - b[0]).item() ** 2)


def test_frechet_against_a_matrix_root_and_torchmetrics(q):
    scipy_linalg = pytest.importorskip("scipy.linalg")
    from torchmetrics.image.fid import _compute_fid
    p, r = random_gaussian(q, 12, 1), random_gaussian(q, 12, 2)
    root = scipy_linalg.sqrtm((p.cov @ r.cov).numpy()).real
    want = (p.mean - r.mean).square().sum() + p.cov.trace() + r.cov.trace() - 2 * np.trace(root)
    assert q.frechet_distance(p, r) == pytest.approx(want.item(), rel=1e-9)
    assert q.frechet_distance(p, r) == pytest.approx(_compute_fid(p.mean, p.cov, r.mean, r.cov).item(), rel=1e-9)
    assert q.frechet_distance(p, r) == pytest.approx(q.frechet_distance(r, p), rel=1e-9)


def test_frechet_does_not_change_under_rotation(q):
    p, r = random_gaussian(q, 9, 3), random_gaussian(q, 9, 4)
    turn, _ = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64))
    turned = [q.Gaussian(turn @ g.mean, turn @ g.cov @ turn.T, g.n) for g in (p, r)]
    assert q.frechet_distance(*turned) == pytest.approx(q.frechet_distance(p, r), rel=1e-9)


def test_frechet_survives_a_singular_covariance(q):
    flat = q.Gaussian(torch.zeros(3, dtype=torch.float64),
                      torch.diag(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)), 100)
    assert q.frechet_distance(flat, flat) == pytest.approx(0, abs=1e-9)


def test_fit_gaussian_is_mean_and_unbiased_covariance(q):
    f = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    p = q.fit_gaussian(f)
    np.testing.assert_allclose(p.cov, np.cov(f.double().numpy(), rowvar=False), rtol=1e-10)
    np.testing.assert_allclose(p.mean, f.double().mean(0))
    assert p.mean.dtype == torch.float64 and p.n == 50


def test_filter_bank_is_fixed_named_and_alone(q):
    x = photos(4)
    torch.manual_seed(1)
    first = q.FilterBank(16)
    torch.manual_seed(2)
    second = q.FilterBank(16)
    assert torch.equal(first(x), second(x)), "no global seed reaches it"
    assert not list(first.parameters()), "nothing in it can be trained"
    alone = torch.cat([first(x[k:k + 1]) for k in range(4)])
    torch.testing.assert_close(first(x), alone, rtol=1e-4, atol=1e-4)
    wide = q.FilterBank(64)
    torch.testing.assert_close(first(x), wide(x)[:, :16] * 2, rtol=1e-4, atol=1e-4)


def test_filter_bank_on_grey_sees_no_colour_and_no_texture(q):
    waves = q.wavelets()
    assert waves.shape == (8, 1, 7, 7) and waves.sum((1, 2, 3)).abs().max() < 1e-6


def test_distance_of_a_set_with_itself_and_its_halves(q):
    x, network = photos(480), q.FilterBank(16, height=64, width=32)
    cpu = torch.device("cpu")
    assert q.frechet(network, x, x, device=cpu).value == pytest.approx(0, abs=1e-8)
    halves = q.frechet(network, x[::2], x[1::2], device=cpu).value
    other = q.frechet(network, x[::2], photos(240, seed=1, cells=16), device=cpu).value
    assert 0 < 5 * halves < other


@pytest.mark.parametrize("harm", ["blur", "noise", "colour", "stranger"])
def test_more_harm_is_more_distance(q, harm):
    x, network, cpu = photos(200), q.FilterBank(16, height=64, width=32), torch.device("cpu")
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    strange = photos(200, seed=9, cells=16).float()
    def harmed(level):
        y = x.float()
        if harm == "blur":
            y = F.avg_pool2d(F.pad(y, (level,) * 4, mode="replicate"), 2 * level + 1, 1)
        if harm == "noise":
            y = y + 10 * level * noise
        if harm == "colour":
            y = y + 12 * level * torch.tensor([1.0, 0.0, -1.0]).view(3, 1, 1)
        if harm == "stranger":
            y = torch.cat([strange[:50 * level], y[50 * level:]])
        return y.clamp(0, 255).to(torch.uint8)
    values = [q.frechet(network, x, harmed(level), device=cpu).value for level in (1, 2, 3)]
    assert values == sorted(values) and values[-1] > 1.5 * values[0] > 0


def test_jpeg_keeps_the_shape_and_loses_with_quality(q):
    x = photos(3)
    lost = [(q.through_jpeg(x, quality).float() - x.float()).abs().mean().item() for quality in (95, 50)]
    assert q.through_jpeg(x).dtype == torch.uint8 and 0 < lost[0] < lost[1]

# --- names and refusals ---------------------------------------------------------------------------------------------


def test_only_inception_is_called_fid(q):
    assert q.FilterBank(8).distance_name == "Fréchet distance (filter-bank-8)"
    assert q.FeatureNetwork("inception-v3", 2048, 10_000).distance_name == "FID"
    value = q.frechet(q.FilterBank(8), photos(80), photos(80, 1), device=torch.device("cpu"))
    assert "FID" not in value.name and value.n_real == value.n_fake == 80
    assert q.FilterBank(8, seed=1).name != q.FilterBank(8).name != q.FilterBank(8, height=64, width=32).name


def test_too_few_images_are_refused(q):
    with pytest.raises(ValueError, match="at least 320 are needed"):
        q.fit_gaussian(torch.randn(319, 32))
    with pytest.raises(ValueError, match="79 images are too few"):
        q.feature_network(79)
    with pytest.raises(ValueError, match="at least 160"):
        q.frechet(q.FilterBank(16), photos(160), photos(100), device=torch.device("cpu"))


def test_no_weights_no_fid_and_no_download(q, monkeypatch, tmp_path):
    def refuse(*args, **kwargs): raise AssertionError("a download was attempted")
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    for name in ("DGNET_INCEPTION", "DGNET_ALEXNET"): monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("dgnet.core.LOCAL", tmp_path)
    with pytest.raises(FileNotFoundError, match="DGNET_INCEPTION"):
        q.InceptionFeatures()
    assert q.feature_network(20_000).name == "filter-bank-64"
    assert q.lpips_network() is None
    monkeypatch.setenv("DGNET_INCEPTION", str(tmp_path / "missing.pth"))
    with pytest.raises(FileNotFoundError, match="missing.pth"):
        q.feature_network(20_000)


def test_a_wrong_weights_file_is_not_opened(q, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"not a network")
    with pytest.raises(ValueError, match="SHA-256"):
        q.InceptionFeatures(file)


@pytest.mark.parametrize("pairs", [0, 1])
def test_lpips_from_a_local_file(q, tmp_path, pairs):
    import torchvision
    torch.manual_seed(0)
    net = torchvision.models.alexnet(weights=None)
    torch.save({k: v for k, v in net.state_dict().items() if k.startswith("features")}, tmp_path / "alexnet.pth")
    lpips = q.lpips_network(tmp_path / "alexnet.pth")
    x, y = photos(2, height=128, width=64).float() / 127.5 - 1
    distance = lpips(x[None], (y if pairs else x)[None]).flatten().item()
    assert (distance > 1e-4) if pairs else (abs(distance) < 1e-7)
    assert torch.equal(lpips.net.slice1[0].weight, net.features[0].weight)

# --- the error of a swap --------------------------------------------------------------------------------------------


def swaps_of(q, n=40, seed=0):
    x_i, x_j, truth = photos(n, seed), photos(n, seed + 1), photos(n, seed + 2)
    person = torch.zeros(n, 64, 32, dtype=torch.bool)
    person[:, 10:50, 8:24] = True
    return q.SwapTruth(x_i, x_j, truth, person, person, np.arange(n) // 4)


def test_random_pairs_are_distinct_strangers(q):
    ids = np.repeat(np.arange(20), 4)
    pairs = q.random_pairs(ids, 128, seed=3)
    assert len(set(zip(pairs.i.tolist(), pairs.j.tolist()))) == 128
    assert (ids[pairs.i] != ids[pairs.j]).all()
    assert torch.equal(pairs.i, q.random_pairs(ids, 128, seed=3).i)
    assert not torch.equal(pairs.i, q.random_pairs(ids, 128, seed=4).i)
    with pytest.raises(ValueError, match="pairs of different people exist"):
        q.random_pairs(ids[:8], 128)


def test_swap_error_counts_the_right_pixels(q):
    truth, person = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    person[:, 1:3, 1:3] = True
    x_hat = truth + 0.5 * person[:, None]
    x_hat[1] += 0.25 * ~person[1]
    error = q.swap_error(x_hat, truth, person)
    torch.testing.assert_close(error.person, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(error.image, torch.tensor([0.125, 0.125 + 0.25 * 12 / 16]))
    torch.testing.assert_close(error.grey, error.person)
    red = truth + 0.3 * person[:, None] * torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1)
    error = q.swap_error(red, truth, person)
    torch.testing.assert_close(error.hue, torch.tensor([0.2, 0.2]))
    assert error.grey.max() < 1e-6, "a colour without brightness"
    with pytest.raises(ValueError, match="without a single person pixel"):
        q.swap_error(x_hat, truth, person & False)


def test_swap_report_of_generators_with_known_answers(q):
    swaps, cpu = swaps_of(q), torch.device("cpu")
    copying = q.swap_report(lambda x_i, x_j: x_j, swaps, device=cpu)
    assert copying.ratio.value == pytest.approx(1, abs=1e-5)
    assert copying.own.image.max() < 1e-5
    from dgnet.core import from_uint8
    answers = iter(from_uint8(swaps.truth).split(32))
    perfect = q.swap_report(lambda x_i, x_j: next(answers, x_j), swaps, device=cpu)
    assert perfect.ratio.value == pytest.approx(0, abs=1e-5) and perfect.ratio.high < 1e-4


def test_swap_report_puts_appearance_first(q):
    swaps = swaps_of(q)
    report = q.swap_report(lambda x_i, x_j: x_i, swaps, device=torch.device("cpu"))
    want = (swaps.x_i / 255 - swaps.truth / 255).abs().mean((1, 2, 3))
    torch.testing.assert_close(report.swap.image, want, rtol=1e-4, atol=1e-5)


def test_mean_colour_is_of_the_appearance_person(q):
    swaps = swaps_of(q, 4)
    painted = q.paint_mean_colour(swaps)
    want = swaps.x_i[2, :, 10:50, 8:24].float().mean((1, 2)) / 255
    torch.testing.assert_close(painted[2, :, 30, 12], want)
    assert torch.equal(painted[:, :, 0], swaps.x_j[:, :, 0] / 255)


def test_shrink_keeps_pixels_that_are_half_person(q):
    parts = torch.zeros(1, 8, 8, dtype=torch.uint8)
    parts[:, :4, :3] = 5
    _, person = q.shrink(torch.rand(1, 3, 8, 8), parts, 4, 4)
    want = torch.zeros(4, 4, dtype=torch.bool)
    want[:2, :2] = True
    assert torch.equal(person[0], want)


def test_swap_truth_takes_clothes_from_i_and_the_rest_from_j(q):
    from dgnet import synthetic as world
    from dgnet.core import to_uint8
    people = world.sample_people("market", 3, seed=0)
    who = torch.arange(3).repeat_interleave(2)
    appearance, structure = world.sample_shots(people, who, torch.zeros(6, dtype=torch.int64), seed=0)
    photo = to_uint8(world.render(appearance, structure, 32, 16).image)
    pairs = q.Pairs(torch.tensor([0, 2, 4]), torch.tensor([3, 5, 4]))
    swaps = q.swap_truth(photo, who.numpy(), appearance, structure, pairs, size=(32, 16))
    want = to_uint8(world.render(world.take_rows(appearance, pairs.i), world.take_rows(structure, pairs.j), 32,
                                 16).image)
    assert torch.equal(swaps.truth, want) and torch.equal(swaps.truth[2], photo[4])
    assert torch.equal(swaps.x_i, photo[pairs.i]) and torch.equal(swaps.x_j, photo[pairs.j])
    assert swaps.who.tolist() == [0, 1, 2] and swaps.person.flatten(1).any(1).all()
    twice = q.swap_truth(F.interpolate(photo.float(), (16, 8), mode="area").to(torch.uint8), who.numpy(), appearance,
                         structure, pairs, size=(32, 16))
    assert twice.truth.shape == (3, 3, 16, 8) and twice.person_i.shape == (3, 16, 8)


def test_bootstrap_resamples_people_not_pairs(q):
    g = torch.Generator().manual_seed(0)
    top, bottom = torch.rand(200, generator=g) + 0.5, torch.ones(200)
    alone = q.bootstrap_ratio(top, bottom, np.arange(200))
    assert alone.low < alone.value < alone.high and alone.value == pytest.approx(top.mean().item(), rel=1e-5)
    few = q.bootstrap_ratio(top[:8].repeat_interleave(25), bottom, np.arange(200) // 25)
    assert few.high - few.low > 2 * (alone.high - alone.low), "eight people are eight witnesses, however many pairs"
    assert q.bootstrap_ratio(top, bottom, np.arange(200)) == alone
