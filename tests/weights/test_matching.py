"""Every tensor finds its place; what is changed on the way, or does not fit, is said."""

import pytest
import torch
from support.weights import Detector, holds, random_state, trunk
from torch import nn

from convnext_backbones import VARIANTS, ConvNeXt, ConvNeXtClassifier, load_weights
from convnext_backbones.weights.layouts import LAYOUTS, META
from convnext_backbones.weights.matching import STEM, adapt_stem, match_weights
from convnext_backbones.weights.names import export
from convnext_backbones.weights.published import find_published

# --- what is changed on purpose -------------------------------------------------------------


def test_the_norm_after_pooling_is_not_norm3(classifier, backbone, save, warnings):
    exported, _ = export(classifier, LAYOUTS['mmpretrain'])
    report = load_weights(backbone, save({'state_dict': exported}))
    assert len(report.missing) == 8 and backbone.norm3.weight.eq(1).all()
    assert 'backbone.norm3.weight' in report.dropped and not report.surprises
    assert len(warnings) == 1 and 'norm of a classifier after pooling' in warnings[0]


@pytest.mark.parametrize(
    ('channels', 'how'), [(1, 'averaged'), (2, 'averaged'), (4, 'repeated'), (6, 'repeated')]
)
def test_the_stem_is_adapted_to_other_channels(
    channels, how, classifier, miniature, save, warnings
):
    backbone = ConvNeXt(miniature, in_chans=channels)
    report = load_weights(backbone, save(classifier))
    rgb = classifier['downsample_layers.0.0.weight']
    ours = backbone.downsample_layers[0][0].weight
    assert report.adapted == ['downsample_layers.0.0.weight'] and not report.surprises
    assert len(warnings) == 1 and how in warnings[0]
    if channels % 3:
        expected = rgb.mean(1) if how == 'averaged' else rgb[:, 0]
        assert torch.allclose(ours[:, -1], expected * 3 / channels)
    if channels != 4:  # of a gray image, the response stays the same
        assert torch.allclose(ours.sum(1), rgb.sum(1), atol=1e-6)


def test_a_network_for_gray_images_computes_what_the_one_for_rgb_does(classifier, miniature, save):
    """Mean and std have to be the same for all channels, as they are for a gray image."""
    path = save(classifier)
    rgb, gray = ConvNeXt(miniature), ConvNeXt(miniature, in_chans=1)
    for net in (rgb, gray):
        load_weights(net, path)
        net.eval()
    image = torch.randn(1, 1, 64, 64)
    for one, other in zip(rgb(image.expand(-1, 3, -1, -1)), gray(image), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_adapted_stems_repeat_in_turn():
    weight = torch.arange(3.0).reshape(1, 3, 1, 1)
    assert adapt_stem(weight, 6).flatten().tolist() == [0, 0.5, 1, 0, 0.5, 1]
    assert adapt_stem(weight, 1).flatten().tolist() == [3]


@pytest.mark.parametrize('dtype', [torch.int64, torch.float8_e4m3fn])
def test_a_stem_of_another_type_is_adapted_or_refused(dtype, classifier, miniature, save):
    net = ConvNeXt(miniature, in_chans=1)
    path = save(classifier | {STEM: classifier[STEM].to(dtype)})
    if dtype.is_floating_point:
        assert load_weights(net, path).adapted == [STEM]
    else:
        with pytest.raises(ValueError, match='1 of another shape or type.*torch.int64'):
            load_weights(net, path)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted(dtype, classifier, backbone, save, warnings):
    state = {name: tensor.to(dtype) for name, tensor in classifier.items()}
    report = load_weights(backbone, save(state))
    assert holds(backbone, {name: tensor.float() for name, tensor in trunk(state).items()})
    assert len(report.converted) == 61
    assert len(warnings) == 1 and f'from {dtype} to torch.float32' in warnings[0]


# --- final norms that were trained on every position ----------------------------------------


def meta_file(miniature, **more) -> dict[str, torch.Tensor]:
    state = random_state(ConvNeXtClassifier(miniature, num_classes=0))
    return export(state, META)[0] | more


@pytest.mark.parametrize('project', ['DINOv3', 'EUPE'])
def test_the_files_of_meta(project, miniature, save, warnings):
    file = meta_file(miniature)
    if project == 'EUPE':
        file |= {'projectors.0.weight': torch.rand(3, 3), 'norms.2.weight': torch.rand(3)}
    path = save(file)
    backbone = ConvNeXt(miniature)
    report = load_weights(backbone, path)
    assert torch.equal(backbone.norm3.weight, file['norm.weight'])
    assert torch.equal(backbone.norm3.bias, file['norm.bias'])
    assert backbone.norm2.weight.eq(1).all() and len(report.missing) == 6
    assert report.layout == 'meta' and len(report.loaded) == 63 and not report.surprises
    assert len(report.dropped) == (2 if project == 'DINOv3' else 4) and not report.unexpected
    assert len(warnings) == 1 and 'it fills norm3' in warnings[0]

    classifier = ConvNeXtClassifier(miniature, num_classes=0)
    report = load_weights(classifier, path)
    assert torch.equal(classifier.norm.weight, file['norm.weight'])
    assert len(report.loaded) == 63 and not report.missing and not report.notes

    report = load_weights(ConvNeXt(miniature, out_indices=(0, 2)), path)
    assert {'norm.weight', 'norm.bias', 'norms.3.weight'} < {*report.dropped}
    assert not report.notes and not report.surprises


@pytest.mark.parametrize(
    ('name', 'layout'),
    [
        ('timm/convnext_tiny.dinov3_lvd1689m', 'timm'),
        ('timm/convnext_base.eupe_lvd1689m', 'timm'),
        ('vicregl_convnext_small_alpha0.9', 'official'),
    ],
)
def test_the_name_tells_what_the_file_does_not(name, layout, miniature):
    file, _ = export(random_state(ConvNeXtClassifier(miniature, num_classes=0)), LAYOUTS[layout])
    backbone = ConvNeXt(miniature)
    report, matched = match_weights(backbone, file, name, published=find_published(name))
    final = 'head.norm' if layout == 'timm' else 'norm'
    assert torch.equal(matched['norm3.bias'], file[f'{final}.bias'])
    assert 'it fills norm3' in str(report)
    report, matched = match_weights(backbone, file, name)
    assert 'norm3.bias' not in matched and f'{final}.bias' in report.dropped


# --- CLIP -----------------------------------------------------------------------------------


def test_clip_was_trained_with_other_pixels(classifier, backbone, save, warnings):
    exported, _ = export(classifier, LAYOUTS['timm'])
    exported = {name: t for name, t in exported.items() if not name.startswith('head.fc')}
    file = {f'visual.trunk.{name}': tensor for name, tensor in exported.items()}
    file |= {'visual.head.proj.weight': torch.rand(12, 32), 'logit_scale': torch.rand(1)}
    report = load_weights(backbone, save(file))
    assert len(report.notes) == 1 and '122.7709383' in report.notes[0] and '(CLIP)' in warnings[0]
    assert 'logit_scale' in report.dropped and not report.surprises

    miniature = dict(depths=backbone.variant.depths, dims=backbone.variant.dims)
    embedding = ConvNeXtClassifier(miniature, num_classes=12)
    report = load_weights(embedding, save(file))
    assert embedding.head.bias.eq(0).all() and not report.missing
    assert torch.equal(embedding.head.weight, file['visual.head.proj.weight'])
    assert report.notes[0] == 'the projection of the file has no bias: head.bias is zero'
    with pytest.raises(ValueError, match='the file has 12 classes'):
        load_weights(ConvNeXtClassifier(miniature), save(file))

    for name, count in (('timm/convnext_base.clip_laion2b', 1), ('timm/convnext_tiny.fb_in1k', 0)):
        report, _ = match_weights(backbone, exported, name, published=find_published(name))
        assert len(report.notes) == count


# --- what does not fit ----------------------------------------------------------------------


def test_overflow_of_a_wider_type_is_noticed(classifier, miniature, save):
    name = 'stages.0.0.gamma'
    classifier[name] = torch.full((8,), 1e300, dtype=torch.float64)
    with pytest.raises(ValueError, match=rf'1 with NaN or infinity \({name}\)'):
        load_weights(ConvNeXt(miniature), save(classifier))


def test_a_model_without_layer_scale(classifier, miniature, save):
    backbone = ConvNeXt(miniature, layer_scale_init_value=0)
    with pytest.raises(ValueError, match='5 unexpected .*layer_scale_init_value=1.0'):
        load_weights(backbone, save(classifier))


def test_another_size_is_named(miniature, save):
    with torch.device('meta'):
        femto = ConvNeXtClassifier('femto').state_dict()
    path = save({name: torch.ones(tensor.shape) for name, tensor in femto.items()})
    with pytest.raises(
        ValueError, match=r"nothing of .* \(arch='femto'\), the model \(1, 1, 2, 1\)"
    ):
        load_weights(ConvNeXt(miniature), path, strict=False)
    narrow = ConvNeXt(depths=miniature['depths'], dims=VARIANTS['femto'].dims)
    with pytest.raises(ValueError, match=r"63 unexpected .*\(arch='femto'\)"):
        load_weights(narrow, path)


def test_another_number_of_classes_leaves_the_head(classifier, miniature, save, warnings):
    model = ConvNeXtClassifier(miniature, num_classes=7)
    head = {name: t.clone() for name, t in model.state_dict().items() if name.startswith('head')}
    report = load_weights(model, save(classifier))
    note = 'the file has 1000 classes and the model 7: head keeps the values that it had'
    assert report.notes == [note] and note in warnings[0] and not report.surprises
    assert report.mismatched == ['head.weight', 'head.bias']
    assert holds(model, head) and torch.equal(model.norm.weight, classifier['norm.weight'])
    assert holds(model, trunk(classifier))
    load_weights(model, save(model.state_dict()))  # of as many classes: no word is said
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ('left_out', 'kept'),
    [
        (('head.',), 'head.weight, head.bias'),
        (('head.', 'norm.'), 'norm.weight, norm.bias, head.weight and 1 more'),
    ],
)
def test_a_file_without_a_head_leaves_the_head(left_out, kept, classifier, miniature, save):
    model = ConvNeXtClassifier(miniature, num_classes=7)
    file = {name: t for name, t in classifier.items() if not name.startswith(left_out)}
    before = {name: t.clone() for name, t in model.state_dict().items() if name not in file}
    report = load_weights(model, save(file))
    assert report.notes == [f'the file has no head: {kept} keep the values that they had']
    assert holds(model, before | file) and not report.surprises


def test_another_head_is_no_excuse_for_a_gap_elsewhere(classifier, miniature, save):
    del classifier['stages.2.1.pwconv1.weight']
    message = r'1 missing \(stages.2.1.pwconv1.weight\); strict=False'
    with pytest.raises(ValueError, match=message):
        load_weights(ConvNeXtClassifier(miniature, num_classes=7), save(classifier))
    classifier['head.weight'] = torch.ones(9, 5)  # neither the classes nor the features fit
    with pytest.raises(ValueError, match='1 missing.* 2 of another shape'):
        load_weights(ConvNeXtClassifier(miniature, num_classes=7), save(classifier))


def test_features_need_the_final_norm(classifier, miniature, save):
    file = {name: t for name, t in classifier.items() if not name.startswith(('head.', 'norm.'))}
    with pytest.raises(ValueError, match=r'2 missing \(norm.weight, norm.bias\)'):
        load_weights(ConvNeXtClassifier(miniature, num_classes=0), save(file))


def test_a_backbone_does_not_fill_a_classifier(miniature, save):
    path = save(random_state(ConvNeXt(miniature)))
    with pytest.raises(ValueError, match='4 missing .*8 unexpected'):
        load_weights(ConvNeXtClassifier(miniature), path)


@pytest.mark.parametrize(
    ('names', 'cause'),
    [
        (['conv1.weight', 'layer1.0.conv1.weight'], 'ResNet'),
        (['patch_embed.proj.weight', 'blocks.0.attn.qkv.weight'], 'vision transformer'),
        (['head.weight', 'head.bias'], 'a part of the network only'),
    ],
)
@pytest.mark.parametrize('strict', [True, False])
def test_no_convnext_is_always_an_error(names, cause, strict, backbone, save):
    path = save({name: torch.ones(1) for name in names})
    with pytest.raises(ValueError, match=f'found no ConvNeXt in .*{names[0]}.*{cause}'):
        load_weights(backbone, path, strict=strict)


def test_models_that_are_not_ours(classifier, save):
    path = save(classifier)
    with pytest.raises(TypeError, match='expected a ConvNeXt.*got Linear'):
        load_weights(nn.Linear(1, 1), path)


def test_a_model_on_the_meta_device(classifier, miniature, save):
    with torch.device('meta'):
        backbone = ConvNeXt(miniature)
    with pytest.raises(ValueError, match='meta device.*to_empty'):
        load_weights(backbone, save(classifier))


# --- whole detectors and segmentors ---------------------------------------------------------


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.'])
@pytest.mark.parametrize('layout', ['official', 'mmpretrain'])
def test_a_whole_detector(layout, prefix, detector, miniature, save):
    names = {name[9:]: t for name, t in detector.items() if name.startswith('backbone.')}
    file, _ = export(names, LAYOUTS[layout], inside=True)
    file |= {name: t for name, t in detector.items() if not name.startswith('backbone.')}
    path = save({'state_dict': {prefix + name: tensor for name, tensor in file.items()}})
    model = Detector(miniature)
    report = load_weights(model, path)
    assert holds(model, detector) and len(report.loaded) == len(detector)
    assert not (report.missing or report.unexpected or report.dropped or report.notes)
    assert report.per_stage()['neck'] == (2, 0)

    backbone = ConvNeXt(miniature)
    report = load_weights(backbone, path)
    assert holds(backbone, names) and not report.surprises and not report.missing
    assert len(report.dropped) == len(detector) - len(names)


def test_one_of_several_detectors(detector, miniature, save):
    file = {f'teacher.{name}': tensor for name, tensor in detector.items()}
    file |= {
        f'student.{name}': tensor for name, tensor in random_state(Detector(miniature)).items()
    }
    model = Detector(miniature)
    report = load_weights(model, save(file), prefix='teacher.backbone.')
    assert holds(model, detector) and len(report.dropped) == len(detector)


def test_a_detector_with_other_heads_is_an_error(detector, miniature, save):
    detector.pop('neck.weight')
    detector['head.weight'] = torch.ones(1)
    message = r'1 missing \(neck.weight\); 1 unexpected \(head.weight\)'
    with pytest.raises(ValueError, match=message):
        load_weights(Detector(miniature), save(detector))


def test_a_detector_needs_the_output_norms(detector, miniature, save):
    for i in range(4):
        detector.pop(f'backbone.norm{i}.weight')
    with pytest.raises(ValueError, match='4 missing'):
        load_weights(Detector(miniature), save(detector))


def test_a_backbone_does_not_fill_a_detector(classifier, miniature, save):
    with pytest.raises(ValueError, match='holds a backbone only, load it into model.backbone'):
        load_weights(Detector(miniature), save(classifier))


def test_heads_alone_are_nothing(detector, miniature, save):
    other = random_state(ConvNeXt(depths=miniature['depths'], dims=(10, 20, 30, 40)))
    file = {f'backbone.{name}': tensor for name, tensor in other.items()}
    file |= {name: t for name, t in detector.items() if not name.startswith('backbone.')}
    with pytest.raises(ValueError, match='nothing of .* fits into Detector'):
        load_weights(Detector(miniature), save(file), strict=False)
