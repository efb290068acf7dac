//! Asks several servers at once.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

/// Waits until there are enough answers, or all. Each answer is at the index of its question; a question that
/// was not waited for has none.
pub(super) async fn until_enough<T>(
    questions: impl IntoIterator<Item = impl Future<Output = T>>,
    is_enough: impl Fn(&[Option<T>]) -> bool,
) -> Vec<Option<T>> {
    let numbered = questions.into_iter().enumerate();
    let mut questions: FuturesUnordered<_> =
        numbered.map(|(at, question)| async move { (at, question.await) }).collect();
    let mut answers: Vec<Option<T>> = (0..questions.len()).map(|_| None).collect();
    while let Some((at, answer)) = questions.next().await {
        answers[at] = Some(answer);
        if is_enough(&answers) {
            break;
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;
    use crate::domain::task::BoxFuture;

    #[tokio::test]
    async fn answers_are_waited_for_until_there_are_enough_or_all() {
        let asked =
            || -> [BoxFuture<'_, u8>; 3] { [Box::pin(pending()), Box::pin(ready(1)), Box::pin(ready(2))] };
        let two = until_enough(asked(), |answers| answers.iter().flatten().count() == 2).await;
        assert_eq!(two, [None, Some(1), Some(2)]);
        let one = until_enough(asked(), |_| true).await;
        assert_eq!(one.iter().flatten().count(), 1, "the first is enough");
        assert_eq!(until_enough([ready(1), ready(2)], |_| false).await, [Some(1), Some(2)]);
        assert_eq!(until_enough(Vec::<std::future::Ready<u8>>::new(), |_| false).await, []);
    }
}
