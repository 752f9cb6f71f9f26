"""The sphere: geometry, HEALPix, densities, best points, files of densities."""

from icgeo.sphere.geometry import AREA_KM2 as AREA_KM2
from icgeo.sphere.geometry import EARTH_RADIUS_KM as EARTH_RADIUS_KM
from icgeo.sphere.geometry import Values as Values
from icgeo.sphere.geometry import angle as angle
from icgeo.sphere.geometry import as_lat_lon as as_lat_lon
from icgeo.sphere.geometry import as_tensor as as_tensor
from icgeo.sphere.geometry import distance_km as distance_km
from icgeo.sphere.geometry import exp_map as exp_map
from icgeo.sphere.geometry import fibonacci_grid as fibonacci_grid
from icgeo.sphere.geometry import geometric_median as geometric_median
from icgeo.sphere.geometry import log_map as log_map
from icgeo.sphere.geometry import north_east as north_east
from icgeo.sphere.geometry import random_rotation as random_rotation
from icgeo.sphere.geometry import sample_cap as sample_cap
from icgeo.sphere.geometry import sample_uniform as sample_uniform
from icgeo.sphere.geometry import sample_von_mises_fisher as sample_von_mises_fisher
from icgeo.sphere.geometry import spherical_mean as spherical_mean
from icgeo.sphere.geometry import to_lat_lon as to_lat_lon
from icgeo.sphere.geometry import to_xyz as to_xyz
from icgeo.sphere.geometry import von_mises_fisher_log_prob as von_mises_fisher_log_prob
from icgeo.sphere.geometry import wrap_longitude as wrap_longitude
