"""A teacher behind a socket: any configured teacher under the OpenAI Images protocol."""
