"""The ways that exist, one file each, with the protocol of the method (`icgeo.Locator`).

Given no examples, those that need some answer as `Chance`.
"""

from icgeo.baselines.constant import Chance, NearestOracle
from icgeo.baselines.language import LanguageLocator as LanguageLocator
from icgeo.baselines.matching import CROSS_CORRELATION, PARTS_ALONE, AlikeParts, pixel_cells
from icgeo.baselines.matching import Reranked as Reranked
from icgeo.baselines.retrieval import MOST_LOG_KAPPA, RETRIEVAL, NearestPixels, Retrieval, Spread

BESIDE = (RETRIEVAL, CROSS_CORRELATION, PARTS_ALONE)
"""Names of those that tables show beside the method."""
BASELINES = (Chance.name, NearestPixels.name, *BESIDE, NearestOracle.name)
"""Names that tables and figures set apart."""

__all__ = ["BASELINES", "BESIDE", "CROSS_CORRELATION", "MOST_LOG_KAPPA", "PARTS_ALONE", "RETRIEVAL"]
__all__ += ["AlikeParts", "Chance", "NearestOracle", "NearestPixels", "Retrieval", "Spread"]
__all__ += ["pixel_cells"]
