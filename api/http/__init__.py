"""Parts that all endpoints share: guards, bodies, answers, limits and problem documents."""
