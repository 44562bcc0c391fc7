"""Read the names and colors of classes from the files that tools put beside label maps."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ..io.images import IMAGE_SUFFIXES
from .tree import Tree, folder_of, join, suffix

MOST_BYTES = 1_000_000  # of a file of classes
SUFFIXES = ('.txt', '.csv', '.names', '.json', '.yaml', '.yml', '')
Color = tuple[int, int, int]
# Names of a label that is no class.
VOID = ('void', 'unlabeled', 'unlabelled', 'unlabel', 'ignore', 'ignored', 'unknown')


@dataclass(frozen=True)
class ClassList:
    """Names of classes.

    Attributes:
        source: The file that has them.
        names: The names by value in the label maps.
        colors: RGB, by value, where the file gives them.
    """

    source: str
    names: Mapping[int, str]
    colors: Mapping[int, Color] = field(default_factory=dict)


def find_classes(tree: Tree, folders: Iterable[str], notes: list[str]) -> ClassList | None:
    """Return the classes that a file names, or None.

    Args:
        tree: The files.
        folders: Where to look: these folders and all above them.
        notes: Gets sentences about files that cannot be read.
    """
    above = dict.fromkeys(part for folder in folders for part in _upwards(folder))
    texts = {
        folder: [name for name in tree.folders.get(folder, []) if suffix(name) in SUFFIXES]
        for folder in above
    }
    for folder in sorted(above, key=lambda folder: -folder.count('/') - bool(folder)):
        for pattern, read in READERS.items():
            for name in texts[folder]:
                if not re.fullmatch(pattern, name.lower()):
                    continue
                path = join(folder, name)
                try:
                    found = read(path, read_text(tree, path, MOST_BYTES))
                except (OSError, ValueError, csv.Error) as error:
                    notes.append(f'No classes in {path}: {" ".join(str(error).split())[:100]}.')
                    continue
                if found is not None and found.names:
                    return found
    return None


def _upwards(folder: str) -> list[str]:
    """Return a folder and all above it, up to the root."""
    folders = [folder]
    while folder:
        folder = folder_of(folder)
        folders.append(folder)
    return folders


def read_text(tree: Tree, name: str, most: int) -> str:
    """Read a text file of a tree; bytes that are no UTF-8 are kept as escapes.

    Raises:
        OSError: It cannot be read.
        ValueError: It has more than ``most`` bytes.
    """
    with tree.path(name).open('rb') as file:
        raw = file.read(most + 1)
    if len(raw) > most:
        raise ValueError(f'it has more than {most:,} bytes')
    return raw.decode('utf-8-sig', 'backslashreplace')


def _numbered(source: str, rows: Iterable[tuple[str, Color | None]]) -> ClassList:
    """Return classes in the order of a file."""
    listed = list(rows)
    colors = {value: color for value, (_, color) in enumerate(listed) if color is not None}
    return ClassList(source, {value: name for value, (name, _) in enumerate(listed)}, colors)


def _color(texts: Iterable[str]) -> Color | None:
    """Return three numbers below 256; None if they are no color."""
    try:
        numbers = [int(text) for text in texts]
    except ValueError:
        return None
    if len(numbers) != 3 or not all(0 <= number < 256 for number in numbers):
        return None
    return numbers[0], numbers[1], numbers[2]


def _read_table(source: str, text: str) -> ClassList | None:
    """Read a table with a heading: ``name,r,g,b``, or Roboflow's ``Pixel Value, Class``."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if row]
    if not rows:
        return None
    heading = [cell.lower() for cell in rows[0]]
    named = next((heading.index(key) for key in ('name', 'class', 'label') if key in heading), None)
    if named is None:
        return None
    rows = [row for row in rows[1:] if len(row) == len(heading)]
    values = [heading.index(key) for key in ('pixel value', 'value', 'id') if key in heading]
    if values:
        numbers = [(row[values[0]], row[named]) for row in rows]
        return ClassList(source, {int(value): name for value, name in numbers if value.isdigit()})
    places = [
        next((place for place, cell in enumerate(heading) if cell in keys), None)
        for keys in (('r', 'red'), ('g', 'green'), ('b', 'blue'))
    ]
    if None in places:
        return _numbered(source, ((row[named], None) for row in rows))
    return _numbered(
        source,
        ((row[named], _color(row[place] for place in places if place is not None)) for row in rows),
    )


def _read_label_map(source: str, text: str) -> ClassList | None:
    """Read CVAT's ``label:color_rgb:parts:actions``."""
    rows = [line.split(':') for line in text.splitlines() if line.strip() and line[0] != '#']
    listed = [(row[0].strip(), _color(row[1].split(','))) for row in rows if len(row) > 1]
    return _numbered(source, listed) if all(name for name, _ in listed) else None


def _read_colors(source: str, text: str) -> ClassList | None:
    """Read lines of ``r g b name``."""
    rows = [line.split(None, 3) for line in text.splitlines() if line.strip()]
    listed = [(row[3].strip(), _color(row[:3])) for row in rows if len(row) == 4]
    return _numbered(source, listed) if len(listed) == len(rows) else None


def read_lines(source: str, text: str) -> ClassList | None:
    """Read a name per line, perhaps after its number."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not all(line.isprintable() and len(line) < 100 for line in lines):
        return None
    if any(suffix(word) in IMAGE_SUFFIXES for line in lines for word in line.split()):
        return None  # a list of images
    numbered = [re.fullmatch(r'(\d{1,3})\s*[:,\t ]\s*(\D.*)', line) for line in lines]
    if lines and all(numbered):
        return ClassList(source, {int(match[1]): match[2].strip() for match in numbered if match})
    return _numbered(source, ((line, None) for line in lines))


def _read_json(source: str, text: str) -> ClassList | None:
    """Read names from a list, or from a dict by number or by name."""
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError('it is nested too deeply') from None
    return _from_object(source, content)


def _read_yaml(source: str, text: str) -> ClassList | None:
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f'it cannot be read as YAML ({" ".join(str(error).split())})') from None
    return _from_object(source, content)


def _from_object(source: str, content: Any) -> ClassList | None:
    for key in ('classes', 'names', 'labels', 'categories'):
        if isinstance(content, dict) and isinstance(content.get(key), (list, dict)):
            return _from_object(source, content[key])
    if isinstance(content, list):
        names = [entry.get('name') if isinstance(entry, dict) else entry for entry in content]
        if not all(isinstance(name, (str, int)) for name in names):
            return None
        colors = [
            _color(map(str, entry['color']))
            if isinstance(entry, dict) and isinstance(entry.get('color'), list)
            else None
            for entry in content
        ]
        return _numbered(source, zip(map(str, names), colors, strict=True))
    if not isinstance(content, dict) or not content:
        return None
    pairs = list(content.items())
    if all(str(key).isdecimal() and isinstance(value, str) for key, value in pairs):
        return ClassList(source, {int(key): value for key, value in pairs if int(key) < 256})
    if all(type(value) is int and 0 <= value < 256 for _, value in pairs):
        return ClassList(source, {value: str(key) for key, value in pairs})
    return None


# By the pattern of a file's name, the most telling first.
READERS: dict[str, Callable[[str, str], ClassList | None]] = {
    r'(.*_)?class_dict\.csv': _read_table,
    r'labelmap\.txt': _read_label_map,
    r'_?classes\.csv|labels?\.csv|palette\.csv|colou?rs\.csv': _read_table,
    r'label_?colou?rs(\.txt)?|palette\.txt': _read_colors,
    r'classes\.txt|class_?names\.txt|codes\.txt|labels\.txt|names\.txt|.*\.names': read_lines,
    r'(class(es|_names)?|labels?|label_map|id2label|data|dataset(_info)?|meta)\.json': _read_json,
    r'.*\.ya?ml': _read_yaml,
}


def is_void(name: str) -> bool:
    """Whether the name of a label says that it is no class."""
    return name.strip().lower() in VOID
