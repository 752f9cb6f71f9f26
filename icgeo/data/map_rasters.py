"""Maps in files of GDAL."""

RASTER_SUFFIXES = (".tif", ".tiff")
