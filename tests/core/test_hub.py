import logging

import clip2clap
from clip2clap.core.hub import quiet


def test_transformers_notices_about_pil_are_hidden_and_other_warnings_are_not(caplog):
    assert clip2clap.__version__
    logger = logging.getLogger("transformers.utils.import_utils")
    with caplog.at_level(logging.WARNING, logger=logger.name):
        logger.addHandler(caplog.handler)
        try:
            logger.warning("`CLIPImageProcessor` requires torchvision; falling back to `...Pil`.")
            logger.warning("something else")
        finally:
            logger.removeHandler(caplog.handler)
    assert {record.message for record in caplog.records} == {"something else"}


def test_quiet_restores_the_verbosity_of_the_libraries():
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    logs = (diffusers_logging, transformers_logging)
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    with quiet():
        assert all(log.get_verbosity() == logging.ERROR for log in logs)
        assert not any(log.is_progress_bar_enabled() for log in logs)
    assert [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs] == before
