"""People rate two replies blind, A against B, on a local page; what they say is kept and used.

`ratings` holds the records and their files, `pairs` what is shown, `server` the page,
`preferences` turns ratings back into training data.
"""

from repo_ray.serving.rating.ratings import RatedReply, Rating, RatingError, load_ratings

__all__ = ["RatedReply", "Rating", "RatingError", "load_ratings"]
