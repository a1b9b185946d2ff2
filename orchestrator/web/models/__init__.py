"""The shapes of requests and answers. The same models validate what comes in and make `/openapi.json`."""
