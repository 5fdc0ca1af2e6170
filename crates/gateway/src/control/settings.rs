//! What the workers are to go by after a reload, until each of them has been told.

use hub::{Letter, Settings};

/// Settings on their way to the workers.
#[derive(Debug, Default)]
pub(super) struct News {
    /// By worker: what it has not been told yet. Empty as long as nothing has changed.
    untold: Vec<Option<Box<Settings>>>,
}

impl News {
    /// From now on these, by worker. Who has not heard the last ones will not.
    pub(super) fn replace(&mut self, settings: Vec<Settings>) {
        self.untold = settings.into_iter().map(|settings| Some(Box::new(settings))).collect();
    }

    /// Hands everybody who has not got it yet to `post`, which gives back what had no room.
    pub(super) fn tell(&mut self, mut post: impl FnMut(usize, Letter) -> Result<(), Letter>) {
        for (worker, untold) in self.untold.iter_mut().enumerate() {
            let Some(settings) = untold.take() else { continue };
            if let Err(Letter::Settings(settings)) = post(worker, Letter::Settings(settings)) {
                *untold = Some(settings);
            }
        }
    }
}
