//! A test that a type stays with its thread: `<Type as AmbiguousIfSend<_>>::look()`
//! compiles only if it is not `Send`, since otherwise both of these fit.

pub(crate) trait AmbiguousIfSend<A> {
    fn look() {}
}

pub(crate) struct Sends;

impl<T: ?Sized> AmbiguousIfSend<()> for T {}
impl<T: ?Sized + Send> AmbiguousIfSend<Sends> for T {}
