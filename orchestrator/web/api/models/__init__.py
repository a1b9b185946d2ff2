"""The models of requests and answers. They validate requests, and `/openapi.json` is made from them."""
