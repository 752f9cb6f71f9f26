"""Maps in tiles."""

TILE_SUFFIXES = (".pmtiles", ".mbtiles")
