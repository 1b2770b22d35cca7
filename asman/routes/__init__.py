"""HTTP and socket views. They read requests, call operations and write answers; no rule about jobs lives here."""
