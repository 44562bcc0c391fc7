"""Store what compiled mmcv computes, or compare what runs here with it.

    PYTHONPATH=tests python -m support.make_references
    PYTHONPATH=tests python -m support.make_references --compare

The first needs an environment with the compiled operators of mmcv, such as ``make setup OPS=mmcv``
builds, and writes ``tests/support/references``: inputs and results of every case of
``operator_cases``, and of the detectors of ``operator_detectors``. The tests compare the other
providers with these files where compiled mmcv is not installed. The second prints the largest
difference per operator and provider.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

from support import operator_cases, operator_detectors, operator_loops, stored_references
from support.operators import Difference, available_providers, computed_by, difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--compare', action='store_true', help='print differences; write nothing')
    if parser.parse_args().compare:
        compare()
    elif 'mmcv' in available_providers():
        write()
    else:
        parser.error('references come from the compiled operators of mmcv, which do not run here')


def write() -> None:
    """Compute all cases with compiled mmcv."""
    torch.set_num_threads(1)  # matrix products differ in their last bits with it
    scenes = {name: make() for name, make in operator_cases.SCENES.items()}
    results: dict[str, dict] = {}
    with computed_by('mmcv'):
        for case in operator_cases.CASES:
            results.setdefault(case.operator, {})[str(case)] = case.run(scenes[case.scene])
        results['detectors'] = {case.name: case.run() for case in operator_detectors.CASES}
    stored_references.save(stored_references.INPUTS, scenes)
    for name, groups in results.items():
        stored_references.save(name, groups)
    sizes = [path.stat().st_size for path in stored_references.FOLDER.iterdir()]
    print(f'{stored_references.FOLDER}: {len(sizes)} files, {sum(sizes) / 2**10:.0f} KiB')


def compare() -> None:
    """Print a table with a row per operator, dtype and provider."""
    print('| Operator | dtype | Provider | Cases | Largest difference | of the largest value |')
    print('| --- | --- | --- | --- | --- | --- |')
    rows: dict[tuple[str, str, str], list[Difference]] = {}
    for provider in available_providers():
        with computed_by(provider):
            for operator, dtype, found in differences(provider):
                rows.setdefault((operator, dtype, provider), []).append(found)
    for key, found in sorted(rows.items()):
        largest = [f'{max(values):.1e}' for values in zip(*found, strict=True)]
        print('|', ' | '.join([*key, str(len(found)), *largest]), '|')


def differences(provider: str) -> Iterator[tuple[str, str, Difference]]:
    """Largest difference of every case, with its operator and dtype."""
    for case in operator_cases.CASES:
        pairs = case.run(stored_references.inputs(case)), stored_references.outputs(case)
        yield case.operator, str(case.dtype)[6:], largest(*pairs)
    for case in operator_detectors.CASES:
        actual, expected = case.run(), case.expected()
        masks = operator_detectors.share_of_pixels(actual.pop('masks'), expected['masks'])
        yield case.name, 'float32', largest(actual, expected)
        yield f'{case.name}: share of mask pixels', 'bool', Difference(masks, masks)
    if provider != 'mmcv':
        for case in operator_loops.CASES:
            yield f'{case.operator} (loop)', 'float64', largest(case.run(), case.expected())


def largest(actual: dict, expected: dict) -> Difference:
    """Return the largest differences among results of the same names."""
    found = [difference(tensor, expected[name]) for name, tensor in actual.items()]
    return Difference(*map(max, zip(*found, strict=True)))


if __name__ == '__main__':
    main()
