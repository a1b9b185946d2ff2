"""The resources of the API, one module each, and the API's description."""
