"""Detected objects as GeoJSON, in the coordinates of the image."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..io.files import write_atomically
from ..io.geotiff import Georeference, import_rasterio
from .merging import Detection


def write_outlines(
    path: Path, objects: Iterable[Detection], classes: tuple[str, ...], place: Georeference
) -> None:
    """Write a feature for each object: the outline of its mask, or its box if it has none.

    The coordinates are those of the reference system of the image, which the file names as GDAL
    and QGIS read it.

    Args:
        path: The file, of type ``.geojson``.
        objects: Of the image.
        classes: Their names.
        place: Of the image.
    """
    features = [
        dict(
            type='Feature',
            properties=dict(category=classes[one.label], score=round(one.score, 5)),
            geometry=dict(type='MultiPolygon', coordinates=outline(one, place.transform)),
        )
        for one in objects
    ]
    content: dict[str, Any] = dict(type='FeatureCollection', features=features)
    if place.crs is not None:
        code = place.crs.to_epsg()
        name = f'urn:ogc:def:crs:EPSG::{code}' if code else place.crs.to_wkt()
        content['crs'] = dict(type='name', properties=dict(name=name))
    write_atomically(path, json.dumps(content))


def outline(one: Detection, transform: Any) -> list:
    """Return the polygons of an object, along the edges of its pixels; each with its holes.

    Args:
        one: The object.
        transform: From (column, row) of the image to the coordinates of the polygons.
    """
    if one.mask is None:
        x1, y1, x2, y2 = one.box.tolist()
        corners = [(x1, y1), (x1, y2), (x2, y2), (x2, y1), (x1, y1)]
        return [[[list(transform * corner) for corner in corners]]]
    import_rasterio('outlines of masks')
    from rasterio.features import shapes

    pixels = one.mask.pixels().astype(np.uint8)
    place = transform * transform.translation(one.mask.left, one.mask.top)
    found = shapes(pixels, mask=pixels.astype(bool), transform=place)
    return [[[list(p) for p in ring] for ring in shape['coordinates']] for shape, _ in found]
